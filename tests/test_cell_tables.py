"""Tables of cells as people and spreadsheets leave them: read as they were meant, or refused with the line."""

from __future__ import annotations

import pytest

from cellfeat import CellfeatError, cell_tables
from cellfeat.changes import read_answers

HEADER = "id,path,label,set,p_a,p_=b\n"


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "t.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "id,path,label,reviewed,p_a\nx,1.png,a,b,1\n",
        "sep=;\r\nid;path;label;reviewed;p_a\r\nx;1.png;a;b;1\r\n",
        '"sep=\t"\nid\tpath\tlabel\treviewed\tp_a\nx\t1.png\ta\tb\t1\n',
        " ID ,Path,LABEL,reviewed ,P_a\nx,1.png, a ,b ,1\n",
        "id,path,label,Reviewed,p_a,,\nx,1.png,a,b,1,,\n,,,,,,\n\n",
        '\ufeff"id";"path";"label";"reviewed";"p_a"\n"x";"1.png";"a";"b";"1"\n;;;;\n',
    ],
)
def test_what_spreadsheets_do_to_a_table_is_undone(table, text):
    found = cell_tables.read(table(text))
    assert found.header == ("id", "path", "label", "reviewed", "p_a")
    assert found.values() == [{"id": "x", "path": "1.png", "label": "a", "reviewed": "b", "p_a": "1"}]
    assert found.classes == ("a",)


def test_empty_fields_that_a_spreadsheet_left_out_are_empty(table):
    assert cell_tables.read(table("id,path,label,reviewed\nx,1.png,a\n")).values()[0]["reviewed"] == ""


def test_what_protects_names_from_a_spreadsheet_is_taken_off_everywhere(table):
    path = table("id,path,label,best_label,set,p_a,p_'=b\n'=x,'-1.png,'=b,'=b,'=b|a,0.2,0.8\n")
    found = cell_tables.read(path)
    assert found.classes == ("a", "=b")
    [line] = found.values()
    assert [line[name] for name in ("id", "path", "label", "best_label", "p_=b")] == ["=x", "-1.png", "=b", "=b", "0.8"]
    assert cell_tables.classes_of_set("'=b|a") == ("=b", "a")
    assert cell_tables.classes_of_set("a|'=b") == ("a", "=b")
    assert read_answers(path) == {"=x": "=b"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (f'{HEADER}x,"1.png,a,a,1,0\ny,2.png,a,a,1,0\n', "not a CSV in UTF-8 (line 3: unexpected end of data)"),
        (f"{HEADER}x,{'1' * 140_000},a,a,1,0\n", "not a CSV in UTF-8 (line 2: field larger than field limit"),
        (f'sep=,\n{HEADER}"x"y,1.png,a,a,1,0\n', "not a CSV in UTF-8 (line 3: "),
        (f"{HEADER}x,1.png,a,a,1,0,more\n", "line 2 has 7 fields, the header 6; put quotes"),
        ("id,path,label,reviewed,Reviewed\nx,1.png,a,,\n", "the column reviewed is there twice; keep one"),
        ("id,path,label,p_=b,p_'=b\nx,1.png,a,1,1\n", "the column p_=b is there twice"),
        (f"{HEADER}x,1.png,a,a,1,0\n,,a,,,\n", "line 3: the id is empty"),
        (f"{HEADER}x,1.png,a,a,1,0\nx,2.png,a,a,1,0\n", "the cell 'x' is there 2 times"),
        (f"{HEADER},,,,,\n", "no cells below the header"),
        ("", "has no column id and no column path and no column label"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(table, text, part):
    with pytest.raises(CellfeatError) as caught:
        cell_tables.read(table(text))
    assert part in str(caught.value)
    with pytest.raises(CellfeatError, match=r"^--before /"):
        read_answers(table(text.replace("path", "where").replace("label", "word")))
