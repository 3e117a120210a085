"""Files that lie elsewhere: what is read, what is refused, and the one line that says why."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path

import fsspec
import pytest

from cellfeat import CellfeatError, datasets, images, storage
from cellfeat.demo import write_demo


@pytest.fixture
def memory(tmp_path):
    """The demo set in fsspec's memory, as an object store would hold it; gives the address of its manifest."""
    manifest = write_demo(tmp_path / "demo", per_class=1, size=32)
    system = fsspec.filesystem("memory")
    system.put(str(manifest.parent), "/bucket/demo", recursive=True)
    yield "memory://bucket/demo/manifest.csv"
    system.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("location", "folder", "found"),
    [
        ("a.png", Path("cells"), Path("cells/a.png")),
        ("/data/a.png", Path("cells"), Path("/data/a.png")),
        ("file:///data/a%20b.png", Path("cells"), Path("/data/a b.png")),
        ("s3://bucket/a.png", Path("cells"), "s3://bucket/a.png"),
        ("a.png", "s3://bucket/cells", "s3://bucket/cells/a.png"),
        ("../other/a.png", "s3://bucket/cells", "s3://bucket/other/a.png"),
        ("../../../a.png", "s3://bucket/cells", "s3://bucket/a.png"),
        ("/etc/passwd", "https://host:8/cells", "https://host:8/etc/passwd"),
        ("gs://other/a.png", "s3://bucket/cells", "gs://other/a.png"),
        ("file:///etc/passwd", "s3://bucket/cells", "file:///etc/passwd"),
    ],
)
def test_where_a_manifest_points_to(location, folder, found):
    assert storage.located(location, folder) == found


def test_the_folder_of_a_url():
    assert storage.parent("https://host/cells/m.csv?signature=a/b#c") == "https://host/cells"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (
            "ftp://host/a.png",
            "ftp:// is not read; possible are paths and s3://, gs://, az://, abfs://, http://, https://, ",
        ),
        ("simplecache::s3://a", None),
        ("github://owner:repo@main/a.png", "github:// is not read"),
        ("file:///etc/passwd", "file:// is a file of this machine, which a manifest from elsewhere may not name"),
        ("S3://bucket/a.png", None),
    ],
)
def test_only_listed_protocols_are_read(url, reason):
    if reason is None:
        assert not storage.is_url(url) or storage.problem(url) is None
        return
    assert storage.problem(url).startswith(reason)
    with pytest.raises(storage.StorageError) as refused:
        storage.read(url, 10)
    assert str(refused.value).startswith(reason)


def test_a_package_that_is_missing_is_named(monkeypatch):
    def absent(protocol, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", absent)
    with pytest.raises(images.ImageError, match=r"^s3://b/a.png: cannot be read \(s3:// needs the package s3fs: pip"):
        images.read_bytes("s3://b/a.png")


def test_a_data_set_of_an_object_store(memory):
    found = datasets.check_images(datasets.read_manifest(memory))
    assert len(found) == 15
    assert all(path.startswith("memory://bucket/demo/images/") for path in found.path)
    local = fsspec.filesystem("memory").cat_file(found.path[0].removeprefix("memory:/"))
    assert found.image_digest[0] == images.image_digest(local)


def test_absent_and_large_files_are_told_as_on_disk(memory, monkeypatch):
    with pytest.raises(images.ImageError, match=r"^memory://bucket/none.png: no such file$"):
        images.read_bytes("memory://bucket/none.png")
    with pytest.raises(CellfeatError, match=r"^memory://bucket/none.csv: no such manifest$"):
        datasets.read_manifest("memory://bucket/none.csv")
    fsspec.filesystem("memory").pipe_file("/bucket/large.png", bytes(900))
    with pytest.raises(
        images.ImageError, match=r"^memory://bucket/large.png: more than 0 MB, too large for an image of"
    ):
        images.read_bytes("memory://bucket/large.png", max_pixels=100)


def test_a_manifest_from_elsewhere_names_no_file_of_this_machine(memory):
    system = fsspec.filesystem("memory")
    system.pipe_file("/bucket/demo/bad.csv", b"id,path,label,domain\na,file:///etc/passwd,x,y\n")
    with pytest.raises(CellfeatError, match="line 2: file:///etc/passwd: file:// is a file of this machine"):
        datasets.read_manifest("memory://bucket/demo/bad.csv")


def test_a_local_manifest_with_another_protocol_is_refused_by_line(tmp_path):
    (tmp_path / "m.csv").write_text("id,path,label,domain\na,ftp://host/a.png,x,y\n")
    with pytest.raises(CellfeatError, match=r"m.csv: line 2: ftp://host/a.png: ftp:// is not read; possible are"):
        datasets.read_manifest(tmp_path / "m.csv")


@pytest.fixture
def server():
    """A web server that answers with the statuses in its list, then 200; gives address, statuses, requests."""
    statuses, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status = statuses.pop(0) if statuses else 200
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"0123456789" if status == 200 else b"no")

        def log_message(self, *args) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}", statuses, asked
        serving.shutdown()
        thread.join()


def test_a_busy_server_is_asked_again(server, monkeypatch):
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    address, statuses, asked = server
    statuses += [503, 429]
    assert storage.read(f"{address}/a", 100) == b"0123456789"
    assert len(asked) == 3
    assert storage.read(f"{address}/a", 5) == b"012345", "one byte more than the limit, and no further"


def test_offline_means_that_nothing_is_fetched(server, monkeypatch):
    monkeypatch.setenv("CELLFEAT_OFFLINE", "1")
    address, _, asked = server
    with pytest.raises(images.ImageError, match="downloads are switched off"):
        images.read_bytes(f"{address}/a")
    assert asked == []


@pytest.mark.parametrize(
    ("status", "tries", "message"),
    [
        (404, 1, "{url}: no such file"),
        (403, 1, "{url}: cannot be read (no permission (HTTP 403); check the credentials)"),
        (418, 1, "{url}: cannot be read (HTTP 418 I'm a Teapot)"),
        (503, storage.TRIES, "{url}: cannot be read (HTTP 503 Service Unavailable)"),
    ],
)
def test_what_a_server_refuses_is_one_line(server, monkeypatch, status, tries, message):
    monkeypatch.setattr(storage, "PAUSE", 0.0)
    address, statuses, asked = server
    statuses += [status] * 9
    with pytest.raises(images.ImageError) as refused:
        images.read_bytes(f"{address}/a.png")
    assert str(refused.value) == message.format(url=f"{address}/a.png")
    assert len(asked) == tries
