"""Plugins by entry point: what loads, what is refused and how that is said."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import pytest

from cellfeat import registry
from cellfeat.errors import CellfeatError
from cellfeat.plugin_choice import Choice
from cellfeat.registry import Offer

GOOD = """
from cellfeat import hookimpl

class Method:
    reads, writes, uses_target, uses_labels = ("pooled",), "pooled", False, False

    def __init__(self, epochs: int = 3):
        "Does nothing, well."
        self.epochs = epochs

    def fit(self, cells, context): return self
    def transform(self, cells, context): return cells.pooled
    def save(self, folder): pass
    @classmethod
    def load(cls, folder): return cls()

@hookimpl
def cellfeat_align():
    return {NAMES}
"""


def good(*names: str) -> str:
    return GOOD.replace("NAMES", ", ".join(f"{name!r}: Method" for name in names))


BROKEN = {
    "import-error": (
        "import there_is_no_such_module",
        "ModuleNotFoundError: No module named 'there_is_no_such_module'",
    ),
    "syntax-error": ("def (", "SyntaxError: invalid syntax"),
    "exits": ("import sys; sys.exit('needs a licence')", "SystemExit: needs a licence"),
    "asserts": ("assert False, 'no GPU'", "AssertionError: no GPU"),
    "list": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): return ['cae']",
        "cellfeat_align must return {name: factory}, got ['cae']",
    ),
    "no-factory": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): return {'x': 'Class'}",
        "cellfeat_align must return {name: factory}, got {'x': 'Class'}",
    ),
    "misspelt": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_aling(): return {}",
        "PluginValidationError: unknown hook 'cellfeat_aling'",
    ),
    "arguments": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(context): return {}",
        "hookimpl definition: cellfeat_align(context) Argument(s) {'context'} are declared",
    ),
    "hook-fails": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): return 1 / 0",
        "ZeroDivisionError: division by zero",
    ),
    "unmarked": (
        "def cellfeat_align(): return {'x': dict}",
        "it offers nothing: no function in it is marked @hookimpl, or none returns a factory",
    ),
    "nothing": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): pass",
        "it offers nothing: no function in it is marked @hookimpl, or none returns a factory",
    ),
    "future": ("CELLFEAT_API_VERSION = 99", "it is written for plugin API 99, this cellfeat has 1"),
    "bad-name": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): return {'a,b': lambda: None}",
        "align 'a,b' cannot be asked for; a name has letters, digits, - and _",
    ),
    "takes-name": (
        "from cellfeat import hookimpl\n@hookimpl\ndef cellfeat_align(): return {'x': lambda name='y': None}",
        "align 'x' has a parameter `name`, which in a recipe names the method itself",
    ),
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install distributions of one module each; gives the registry of exactly these."""
    monkeypatch.syspath_prepend(str(tmp_path))
    modules = []

    def put(
        requires: dict[str, list[str]] | None = None, licence: str = "", choice: Choice | None = None, **sources: str
    ) -> registry.Registry:
        for number, (name, source) in enumerate(sources.items()):
            module = f"installed_{number}_{tmp_path.name.replace('-', '_')}"
            modules.append(module)
            (tmp_path / f"{module}.py").write_text(source)
            info = tmp_path / f"{name}-1.{number}.dist-info"
            info.mkdir()
            about = f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.{number}\n"
            about += "".join(f"Requires-Dist: {text}\n" for text in (requires or {}).get(name, []))
            about += f"License-Expression: {licence}\n" if licence else ""
            (info / "METADATA").write_text(about)
            (info / "entry_points.txt").write_text(f"[cellfeat]\n{name}-plugin = {module}\n[other]\nx = nowhere\n")
        found = [point for item in distributions(path=[str(tmp_path)]) for point in item.entry_points]
        return registry.load([point for point in found if point.group == "cellfeat"], choice)

    yield put
    for module in modules:
        sys.modules.pop(module, None)


def test_an_installed_plugin_is_found_with_its_distribution_and_version(install):
    found = install(zed=good("cae", "coral"))
    assert found.broken == []
    assert found.names("align") == ["cae", "coral"]
    assert found.names("backbone") == []
    offer = found.find("align", "cae")
    assert (offer.plugin, offer.distribution, offer.version) == ("zed-plugin", "zed", "1.0")


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason_and_stops_no_other(install, kind):
    source, reason = BROKEN[kind]
    found = install(aaa=good("first"), bad=source, zzz=good("last"))
    assert found.names("align") == ["first", "last"]
    [broken] = found.broken
    assert (broken.plugin, broken.distribution) == ("bad-plugin", "bad")
    assert reason in broken.reason
    assert "\n" not in broken.reason


REMEDIES = {
    "import-error": "install what it imports (the package that has there_is_no_such_module), or bad with all it needs",
    "future": "update cellfeat (pip install --upgrade cellfeat), or install a release of bad for plugin API 1",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_listed_with_what_the_user_can_do(install, kind):
    [broken] = install(bad=BROKEN[kind][0]).broken
    assert broken.remedy == REMEDIES.get(kind, "tell the author of bad; -p no:bad-plugin leaves it out")


FUTURE = "CELLFEAT_API_VERSION = 99\n"


@pytest.mark.parametrize(
    "source",
    [
        f"{FUTURE}{good('x')}",
        f"{FUTURE}from cellfeat import TimeSeries",  # which this cellfeat does not have
        f"from cellfeat import TimeSeries\n{FUTURE}",
        f"from cellfeat.slots import Sequencer\n{FUTURE}",
        f"import sys\n{FUTURE}sys.exit(1)",
    ],
)
def test_another_api_is_the_reason_also_where_the_import_fails_for_it(install, source):
    [broken] = install(bad=source).broken
    assert broken.reason == "it is written for plugin API 99, this cellfeat has 1"
    assert broken.remedy == REMEDIES["future"]


def test_an_older_api_that_is_no_longer_supported_asks_for_a_newer_release(install):
    [broken] = install(bad=f"CELLFEAT_API_VERSION = 0\n{good('x')}").broken
    assert broken.reason == "it is written for plugin API 0, this cellfeat has 1"
    assert broken.remedy == "install a newer release of bad, or an older cellfeat"


@pytest.mark.parametrize("value", ["'1'", "1.0", "True", "None"])
def test_an_api_version_that_is_no_number_is_told(install, value):
    [broken] = install(bad=f"CELLFEAT_API_VERSION = {value}\n{good('x')}").broken
    assert broken.reason == f"CELLFEAT_API_VERSION is {value}, but must be a whole number"
    assert broken.remedy == "tell the author of bad: CELLFEAT_API_VERSION = 1"


def test_no_api_version_is_the_first_for_ever(install, monkeypatch):
    """Plugins written against the first contract go on when the contracts move."""
    monkeypatch.setattr("cellfeat.plugin_sources.SUPPORTED_API_VERSIONS", (1, 2))
    monkeypatch.setattr("cellfeat.plugin_sources.API_VERSION", 2)
    found = install(old=good("old"), new=f"CELLFEAT_API_VERSION = 2\n{good('new')}")
    assert [found.find("align", name).facts().api for name in ("old", "new")] == [1, 2]


def test_names_that_this_cellfeat_lacks_are_its_fault_where_no_api_is_named(install):
    [broken] = install(bad="from cellfeat import TimeSeries").broken
    assert broken.reason.startswith("ImportError: cannot import name 'TimeSeries' from 'cellfeat'")
    assert broken.remedy.startswith("it wants another cellfeat than this one (")


@pytest.mark.parametrize("requires", ["cellfeat>=99", "cellfeat >=99,<100", 'cellfeat[ray]>=99; python_version>"3"'])
def test_a_distribution_that_requires_another_cellfeat_is_not_run(install, requires):
    found = install({"bad": [requires]}, bad="raise AssertionError('it was run')", good=good("x"))
    assert found.names("align") == ["x"]
    [broken] = found.broken
    assert re.fullmatch(r"it requires cellfeat[<>=,0-9]+, and this is cellfeat [\w.]+", broken.reason)
    assert re.fullmatch(r'pip install "cellfeat[<>=,0-9]+", or another release of bad', broken.remedy)


@pytest.mark.parametrize(
    ("requires", "said"),
    [
        (["cellfeat>=0.0.1"], ">=0.0.1"),
        (["cellfeat>=0.0.1a1"], ">=0.0.1a1"),
        (["cellfeat"], ""),
        (["numpy", "cellfeat-extra>=99"], ""),
        (["cellfeat>=99; extra == 'test'"], ""),
        (["cellfeat ? 3"], ""),
        ([], ""),
    ],
)
def test_a_requirement_that_is_met_is_a_fact(install, requires, said):
    found = install({"one": requires}, one=good("x"))
    assert found.broken == []
    assert found.find("align", "x").facts().requires_cellfeat == said


def test_the_licence_of_the_distribution_is_a_fact(install):
    found = install(licence="BSD-3-Clause", one=good("x"))
    assert found.find("align", "x").facts().licence == "BSD-3-Clause"


ODD = 'class Odd(Method):\n    several_sources = "no"\n\n@hookimpl'
WRONG_FACT = good("fine").replace("return {", "return {'odd': Odd, ").replace("@hookimpl", ODD)


def test_a_method_that_declares_nonsense_is_refused_and_the_others_of_its_plugin_are_not(install):
    found = install(one=WRONG_FACT)
    assert found.names("align") == ["fine"]
    [broken] = found.broken
    assert broken.reason == "align 'odd' of one: several_sources is 'no', but must be True or False"
    assert broken.remedy == "tell the author of one"
    with pytest.raises(
        CellfeatError, match=r"^align 'odd' of one: several_sources is 'no', but must be True or False; tell"
    ):
        found.find("align", "odd")


def test_an_object_that_declares_nonsense_is_refused_too(context):
    class Late(Toy):
        def __init__(self, sure: str = "no"):
            self.deterministic = sure

    with pytest.raises(
        CellfeatError, match=r"^classifier 'toy' of dist: deterministic is 'no', but must be True or Fal"
    ):
        offer(Late).create({}, context)


def test_who_asks_for_a_plugin_that_did_not_load_is_told_why(install):
    found = install(bad="assert False, 'no GPU'")
    with pytest.raises(CellfeatError) as error:
        found.find("align", "bad-plugin")
    assert re.sub(r" \(installed_.*?, line 1\)", "", str(error.value)) == (
        "no align named 'bad-plugin': the plugin bad-plugin of bad did not load: AssertionError: no GPU; tell the "
        "author of bad; -p no:bad-plugin leaves it out"
    )


@pytest.mark.parametrize(
    ("choice", "names", "left_out"),
    [
        (Choice(only=()), [], ["a-plugin", "b-plugin"]),
        (Choice(only=("a",)), ["first"], ["b-plugin"]),
        (Choice(only=("b-plugin",)), ["second"], ["a-plugin"]),
        (Choice(left_out=("a-plugin",)), ["second"], ["a-plugin"]),
        (Choice(only=("a", "b"), left_out=("b",)), ["first"], ["b-plugin"]),
    ],
)
def test_the_choice_says_what_loads(install, choice, names, left_out):
    found = install(choice=choice, a=good("first"), b=good("second"))
    assert (found.names("align"), found.left_out) == (names, left_out)
    with pytest.raises(CellfeatError, match=rf"Left out by CELLFEAT_PLUGINS or -p: {', '.join(left_out)}$"):
        found.find("align", "third")


def test_a_choice_of_what_is_not_there_is_an_error(install):
    with pytest.raises(
        CellfeatError, match=r"CELLFEAT_PLUGINS: no plugin or distribution named 'a-plugn'\. Did you mean"
    ):
        install(choice=Choice(only=("a-plugn",)), a=good("first"))


def test_a_single_file_is_a_plugin(install, tmp_path):
    places = (tmp_path / "mine.py", tmp_path / "wrong.py", tmp_path / "future.py", tmp_path / "alone")
    places[0].write_text(good("first"))
    places[1].write_text("REQUIRES_CELLFEAT = '>=99'\nraise AssertionError('it was run')\n")
    places[2].write_text("from cellfeat import TimeSeries\nCELLFEAT_API_VERSION = 99\n")
    places[3].mkdir()
    (places[3] / "__init__.py").write_text("from alone.part import Method\n")
    found = install(choice=Choice(places=places), a=good("second"))
    assert found.names("align") == ["first", "second"]
    mine = found.find("align", "mine.py:first")
    assert (mine.plugin, mine.distribution) == ("mine", "mine.py")
    assert mine.version == hashlib.sha256(places[0].read_bytes()).hexdigest()[:12]
    told = {item.plugin: (item.reason, item.remedy) for item in found.broken}
    assert told["wrong"][0].startswith("it requires cellfeat>=99, and this is cellfeat ")
    assert told["future"][0] == "it is written for plugin API 99, this cellfeat has 1"
    assert told["alone"][1] == (
        "a file or package given by --plugins-dir imports what is beside it by `from . import …`; in a folder, what is "
        "no plugin has a name that begins with _"
    )


def test_a_repository_that_imports_itself_by_name_is_to_be_installed(install, tmp_path):
    package = tmp_path / "here" / "src" / "alone"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from alone.part import Method\n")
    (tmp_path / "here" / "pyproject.toml").write_text("")
    [broken] = install(choice=Choice(places=(package.parent,)), a=good("first")).broken
    assert f"pip install -e {tmp_path / 'here'}, and leave --plugins-dir out" in broken.remedy


def test_a_specifier_that_is_none_is_told(install, tmp_path):
    (tmp_path / "mine.py").write_text(f"REQUIRES_CELLFEAT = 'new'\n{good('x')}")
    [broken] = install(choice=Choice(places=(tmp_path / "mine.py",)), a=good("first")).broken
    assert broken.reason == "REQUIRES_CELLFEAT is 'new', which is no version specifier"
    assert broken.remedy == 'write it as in ">=0.1"'


def test_an_interruption_is_not_taken_for_a_broken_plugin(install):
    with pytest.raises(KeyboardInterrupt):
        install(bad="raise KeyboardInterrupt")


def test_an_unknown_name_is_answered_with_the_nearest_and_the_broken_plugins(install):
    found = install(a=good("cae", "coral"), bad="import there_is_no_such_module")
    with pytest.raises(CellfeatError) as error:
        found.find("align", "cea")
    assert str(error.value) == (
        "no align named 'cea'. Did you mean 'cae'? Available: cae, coral. Not loaded: bad-plugin "
        "(`cellfeat plugins list` says why)"
    )
    with pytest.raises(CellfeatError, match="no backbone named 'cae'"):
        found.find("backbone", "cae")


def test_one_name_of_two_distributions_is_an_error_only_when_it_is_asked_for(install):
    found = install(one=good("cae", "mine"), two=good("cae"))
    assert found.broken == []
    assert found.find("align", "mine").distribution == "one"
    with pytest.raises(CellfeatError, match="2 plugins offer align 'cae'; say which one: one:cae, two:cae"):
        found.find("align", "cae")
    assert found.find("align", "two:cae").distribution == "two"
    assert found.find("align", "one:cae").distribution == "one"
    with pytest.raises(CellfeatError, match=r"no align named 'three:cae'.*Available: one:cae, one:mine, two:cae"):
        found.find("align", "three:cae")


def test_the_shipped_plugins_load_by_the_same_route():
    found = registry.load()
    assert [broken for broken in found.broken if broken.distribution == "cellfeat"] == []
    assert {"lora-sam"} <= set(found.names("backbone")) & set(found.names("segmenter"))
    assert {"cae", "none"} <= set(found.names("align"))
    assert {"svm-linear", "rf", "lr", "ann", "xgboost"} <= set(found.names("classifier"))
    assert registry.installed() is registry.installed()


def offer(factory: Any, slot: str = "classifier") -> Offer:
    return Offer(slot, "toy", factory, "plugin", "dist", "1")


class Toy:
    """A toy.

    With a longer story.
    """

    def __init__(
        self,
        epochs: int = 3,
        rate: float = 0.1,
        mode: Literal["a", "b"] = "a",
        width: int | None = None,
        sizes: tuple[int, ...] = (1,),
        fast: bool = False,
        share: Annotated[float, pydantic.Field(gt=0, le=1)] = 0.5,
        other: Nowhere = 1,  # noqa: F821 - as if imported for type checkers only
        untyped="x",
    ) -> None:
        self.params = {name: value for name, value in locals().items() if name != "self"}

    def fit(self, features, labels):
        return self

    def predict(self, features):
        return features


DEFAULTS = Toy().params


def test_defaults_complete_the_parameters():
    defaults = {name: value for name, value in DEFAULTS.items() if name != "__class__"}
    assert offer(Toy).resolve({}) == {**defaults, "sizes": [1]}
    assert offer(Toy).resolve({"epochs": 5})["epochs"] == 5


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("epochs", "7", 7),
        ("rate", "1e-4", 1e-4),  # YAML 1.1 reads this as text
        ("rate", 1, 1.0),
        ("width", None, None),
        ("width", 4, 4),
        ("sizes", (3, 2), [3, 2]),
        ("fast", True, True),
        ("mode", "b", "b"),
        ("other", {"any": "thing"}, {"any": "thing"}),
        ("untyped", True, True),
    ],
)
def test_values_are_taken_as_the_annotated_type(key, given, expected):
    value = offer(Toy).resolve({key: given})[key]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "must"),
    [
        ("epochs", "many", "is 'many', but must be int (Input should be a valid integer"),
        ("epochs", 1.5, "is 1.5, but must be int"),
        ("epochs", True, "is True, but must be int"),
        ("epochs", None, "is None, but must be int"),
        ("width", False, "is False, but must be int | None"),
        ("rate", True, "is True, but must be float"),
        ("mode", "c", "is 'c', but must be Literal['a', 'b'] (Input should be 'a' or 'b')"),
        ("sizes", [1, "x"], "is [1, 'x'], but must be tuple[int, ...]"),
        ("share", 2, "is 2, but must be float (Input should be less than or equal to 1)"),
    ],
)
def test_a_wrong_type_is_one_clear_line(key, given, must):
    with pytest.raises(CellfeatError) as error:
        offer(Toy).resolve({key: given})
    assert str(error.value).startswith(f"classifier 'toy': {key} {must}")
    assert "\n" not in str(error.value)


def test_an_unknown_parameter_is_refused_with_the_choices():
    with pytest.raises(CellfeatError) as error:
        offer(Toy).resolve({"epoch": 3})
    assert str(error.value) == (
        "no parameter of classifier 'toy' named 'epoch'. Did you mean 'epochs'? Available: "
        "epochs, fast, mode, other, rate, share, sizes, untyped, width"
    )


@dataclass
class Listed:
    """A data class whose defaults are made anew for every object."""

    path: Path = Path("weights/a.pth")
    sizes: tuple[int, ...] = field(default_factory=lambda: (4, 2))
    names: list[str] = field(default_factory=list)

    def fit(self, features, labels):
        return self

    def predict(self, features):
        return features


@pytest.mark.parametrize("factory", [Listed, functools.partial(Listed, Path("weights/a.pth"))])
def test_a_default_factory_is_the_default(factory, context):
    resolved = offer(factory).resolve({})
    assert (resolved["sizes"], resolved["names"]) == ([4, 2], [])
    first, second = (offer(factory).create({}, context) for _ in range(2))
    assert (first.sizes, first.names, second.names) == ((4, 2), [], [])
    assert first.names is not second.names
    assert offer(functools.partial(Listed, names=["x"])).resolve({})["names"] == ["x"]


def test_parameters_are_stored_as_json_and_handed_over_as_the_signature_says(context):
    handed = []

    def factory(path: Path, sizes: tuple[int, ...] = (1,), limits: frozenset[int] = frozenset({3})):
        handed.append((path, sizes, limits))
        return Toy()

    resolved = offer(factory).resolve({"path": Path("a/b"), "sizes": ["3", 2]})
    assert json.loads(json.dumps(resolved)) == resolved == {"path": "a/b", "sizes": [3, 2], "limits": [3]}
    offer(factory).create(resolved, context)
    offer(factory).create({"path": Path("a/b"), "sizes": (3, 2)}, context)
    assert handed == [(Path("a/b"), (3, 2), frozenset({3}))] * 2
    assert [type(value) for value in handed[0]] == [type(Path()), tuple, frozenset]
    with pytest.raises(CellfeatError, match=r"sizes is \[1, 'x'\], but must be tuple\[int, \.\.\.\]"):
        offer(factory).create({"path": "a", "sizes": [1, "x"]}, context)


def test_numbers_that_are_not_finite_stay_what_they_are():
    def factory(rate: float = 0.1, other=float("inf")): ...

    assert offer(factory).resolve({"rate": "inf"}) == {"rate": float("inf"), "other": float("inf")}


def test_a_default_that_no_recipe_can_hold_is_the_authors_mistake():
    def factory(other: Any = object()): ...  # noqa: B008 - the mistake

    with pytest.raises(CellfeatError, match=r"of dist has a parameter that no recipe can hold: .*Tell the plugin's"):
        offer(factory).resolve({})


def test_a_required_parameter_is_asked_for():
    def factory(path: str, depth: int = 1): ...

    with pytest.raises(CellfeatError) as error:
        offer(factory, "backbone").resolve({"depth": 2})
    assert str(error.value) == "backbone 'toy' needs path (str): --set backbone.path=…"


def test_the_context_goes_only_to_those_who_ask(context):
    handed = []

    def asks(*, depth: int = 1, context: Nowhere):  # noqa: F821 - as if imported for type checkers only
        handed.append((depth, context))
        return Toy()

    assert "context" not in offer(asks).parameters().model_fields
    offer(asks).create({"depth": 2}, context)
    assert handed == [(2, context)]
    offer(Toy).create({}, context)  # would fail on an argument that it does not know
    with pytest.raises(CellfeatError, match="no parameter of classifier 'toy' named 'context'"):
        offer(asks).resolve({"context": 1})


def test_one_unresolvable_annotation_does_not_free_the_others():
    def factory(depth: int = 1, *, context: Nowhere): ...  # noqa: F821 - as if imported for type checkers only

    with pytest.raises(CellfeatError, match="depth is 'deep', but must be int"):
        offer(factory).resolve({"depth": "deep"})


@pytest.mark.parametrize("factory", [functools.partial(Toy, epochs=9), type("Call", (), {"__call__": Toy})().__call__])
def test_any_callable_is_a_factory(factory, context):
    made = offer(factory).create({"rate": 0.5}, context)
    assert made.params["rate"] == 0.5
    with pytest.raises(CellfeatError, match="rate is 'x', but must be float"):
        offer(factory).resolve({"rate": "x"})


def test_a_product_that_misses_members_is_refused_with_the_list(context):
    class Half:
        image_size = 224

    with pytest.raises(CellfeatError) as error:
        offer(Half, "backbone").create({}, context)
    assert str(error.value) == (
        "backbone 'toy' of dist gave a Half without interpolation, encode; a backbone needs image_size, "
        "interpolation, encode. Tell the plugin's author"
    )


def test_the_summary_is_the_first_line_of_the_documentation():
    assert offer(Toy).summary == "A toy."
    assert offer(lambda: None).summary == ""


def test_every_shipped_factory_has_readable_parameters_and_a_summary():
    for item in registry.installed().offers:
        assert item.summary, f"{item.slot} {item.name} has no documentation"
        fields = item.parameters().model_fields
        for key, parameter in fields.items():
            assert parameter.annotation is not Any, f"{item.slot} {item.name}: {key} has no type that can be checked"
        if not any(parameter.is_required() for parameter in fields.values()):
            assert item.resolve({}).keys() == fields.keys()


def test_entry_points_are_read_from_this_environment_by_default(install, monkeypatch, tmp_path):
    install(extra=good("only-here"))
    assert Path(sys.path[0]) == tmp_path
    assert "only-here" in registry.load().names("align")
