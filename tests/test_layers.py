"""The layers: the core imports no plugin, plugins import the public API alone, imports go down and cost nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cellfeat

ROOT = Path(__file__).resolve().parent.parent
PLUGIN_NAMES = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.name.startswith("cellfeat_"))

# A module of the core imports only modules of a lower level. A new module gets its line here.
LEVELS = {
    0: "class_shares conformal errors feature_distance findings machine metrics prototypes provenance slots "
    "spreadsheets storage synthetic_laboratories synthetic_types temperature trusted_types watching "
    "without_folders",
    1: "artifacts comparison console declared decode digests distributed edited_tables extras hookspecs illumination "
    "interruption invariance labels lance_rows parameters plugin_choice private_arrays recipe record_fields "
    "report requirements review_journal sampling synthetic_cells testing.checks testing.devices testing.hearing "
    "testing.pickles testing.process torch_probe transfers types",
    2: "cell_tables class_labels classification downloads drawing feature_anndata feature_parquet folder_levels "
    "hub_weights image_files images manifest own_files page private_words ray_cluster reference_files remarks "
    "scan shared_folder showing single_files splits standings store suite synonyms synthetic testing.align_cells "
    "testing.bars testing.columns testing.gates testing.says training",
    3: "changes corrections curves datasets feature_files figures image_statistics known_files label_drafts "
    "labelled_scorer layouts plugin_sources smear_crops smear_scale synthetic_smears testing.toys undisturbed "
    "weights",
    4: "batch_shift batch_size data_figures demo encoding pictures prediction_figures registry rendering results "
    "smear_photographs testing.subject typical_share unlabelled",
    5: "conversion deferred detecting doctor exchange novelty_remarks plugin_names plugin_pages reliability_figures "
    "smear_scales testing.fresh testing.kit testing.used thumbnails writing",
    6: "completion extract grey_levels observation_files pytest_plugin scaffold smear_pictures testing "
    "testing.classifier_subject testing.common_checks",
    7: "components handing novelty testing.classifier_rows testing.encoder_checks workplace",
    8: "finetune given pipeline predicted ray_workers review_table testing.backbone testing.classifier testing.life "
    "testing.segmenter",
    9: "depicted detection differential evaluate newcomers ray_engine review_page smear_folder testing.align_subject",
    10: "answers differential_text observations review_requests scoring smear_detection smear_output "
    "testing.align_form",
    11: "confidence feature_figures records recounted run_pictures smear_changes testing.align_process",
    12: "artifact_texts review run testing.align_answers testing.align_optional",
    13: "artifact_smears claims compose encodings fitted_pipelines next_use plan results_folder review_server "
    "run_folder testing.align_fits testing.align_hard",
    14: "artifact_files bench estimator_files labelled_targets onnx_export plan_text run_facts sharing suite_results "
    "testing.align_resume testing.align_saving verdicts verification",
    15: "artifact_info boards cell_estimator model_card placing row_comparison run_report smear_notes testing.align",
    16: "api.working cell_classifier commands.check_plugin commands.correct commands.new_plugin commands.options "
    "estimator hub leaderboard ranking smear submission use",
    17: "api.bench api.data api.files api.plugins api.runs api.sharing api.smears api.weights commands commands.bench "
    "commands.convert commands.data commands.doctor commands.hub commands.info commands.onnx commands.plugins "
    "commands.report commands.review commands.run commands.smear commands.use commands.weights loaded",
    18: "api cli",
    19: "__main__",
}
LEVEL_OF = {name: level for level, names in LEVELS.items() for name in names.split()}

IMPORTERS = ("import_module", "__import__")
PUBLIC_MODULES = [
    "detection", "differential", "distributed", "images", "metrics", "pictures", "synthetic",
    "synthetic_smears", "testing", "training",
]  # fmt: skip
HEAVY = (
    "torch",
    "torchvision",
    "sklearn",
    "xgboost",
    "timm",
    "peft",
    "lance",
    "segment_anything",
    "scipy",
    "skops",
    "matplotlib",
    "accelerate",
    "fsspec",
    "ray",
)
# What changes a program by being imported: seeds, threads, defaults, arguments, network, warnings, logging.
AT_WORK = {
    *("seed", "manual_seed", "manual_seed_all", "seed_everything", "set_rng_state", "default_rng", "Generator"),
    *("set_num_threads", "set_num_interop_threads", "setNumThreads", "use_deterministic_algorithms"),
    *("set_default_dtype", "set_default_device", "set_float32_matmul_precision", "set_config", "set_device"),
    *("parse_args", "parse_known_args", "basicConfig", "filterwarnings", "simplefilter", "setLevel"),
    *("urlopen", "urlretrieve", "retrieve", "from_pretrained", "download_url", "load_state_dict_from_url"),
    *("setdefault", "putenv", "chdir", "mkdir", "makedirs", "print", "open", "system", "run", "Popen"),
}


def core_modules() -> dict[str, Path]:
    """{name below `cellfeat`: file}; the package itself is ''."""
    found = {}
    for path in (ROOT / "cellfeat").rglob("*.py"):
        parts = path.relative_to(ROOT / "cellfeat").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = core_modules()


def plugin_files() -> list[Path]:
    return [path for name in PLUGIN_NAMES for path in sorted((ROOT / "plugins" / name).rglob("*.py"))]


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """Every node under `if TYPE_CHECKING:`."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


def imports(source: str, package: str, type_checking: bool = True) -> Iterator[tuple[int, str, str]]:
    """(line, module, name) of every import in a file, in functions too; name is "" for a plain `import module`.

    Relative imports are made absolute; `importlib.import_module("x")` and `__import__("x")` count.
    """
    tree = ast.parse(source)
    skipped = set() if type_checking else for_type_checkers(tree)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in IMPORTERS:
            yield from ((node.lineno, str(part.value), "") for part in node.args[:1] if isinstance(part, ast.Constant))


def plugin_offences(source: str, plugin: str) -> list[str]:
    """Imports of a plugin's file that reach another plugin or the core's inside."""
    found = []
    for line, module, name in imports(source, plugin):
        top, _, inside = module.partition(".")
        if top == "cellfeat":
            public = inside in PUBLIC_MODULES if inside else name in cellfeat.__all__ or not name
            if not public:
                found.append(f"line {line}: {module}{f'.{name}' if name else ''} is not public API")
        elif top.startswith("cellfeat_") and top != plugin:
            found.append(f"line {line}: {module} is another plugin")
    return found


def core_imports(source: str, module: str) -> set[str]:
    """The modules of the core that one of them imports at run time."""
    package = f"cellfeat.{module}".rpartition(".")[0]
    found = set()
    for _, home, name in imports(source, package, type_checking=False):
        top, _, inside = home.partition(".")
        if top == "cellfeat":
            below = f"{inside}.{name}".strip(".")
            found.add(below if below in MODULES or not inside else inside)
    return found - {""}


def level_offences(source: str, module: str) -> list[str]:
    """Imports of a core module that do not go down."""
    found = []
    for other in sorted(core_imports(source, module)):
        if other not in MODULES:
            found.append(f"{module} imports {other} from cellfeat itself: name the module that has it")
        elif other not in LEVEL_OF:
            found.append(f"{module} imports {other}, which has no level")
        elif LEVEL_OF[other] >= LEVEL_OF[module]:
            found.append(f"{module} (level {LEVEL_OF[module]}) imports {other} (level {LEVEL_OF[other]})")
    return found


def work_on_import(source: str) -> list[str]:
    """Calls and settings that happen when a module is imported: outside of functions and of `if __name__ == ...`."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    found = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]:
                visit(part)
            return
        if isinstance(node, ast.Lambda) or (isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)):
            return
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in AT_WORK:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
        for target in [*getattr(node, "targets", []), getattr(node, "target", None)]:
            # `torch.backends.cudnn.benchmark = True`, `os.environ["X"] = "1"`; attributes of one's own are no matter.
            if isinstance(target, (ast.Attribute, ast.Subscript)) and names_in(target) & imported:
                found.append(f"line {node.lineno}: {ast.unparse(node)[:60]}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def names_in(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_the_core_never_imports_a_plugin(module):
    tops = {name.partition(".")[0] for _, name, _ in imports(MODULES[module].read_text(), f"cellfeat.{module}")}
    assert not tops & set(PLUGIN_NAMES)
    assert not {top for top in tops if top.startswith("cellfeat_")}


@pytest.mark.parametrize("path", plugin_files(), ids=lambda path: str(path.relative_to(ROOT / "plugins")))
def test_a_plugin_imports_the_public_api_alone_and_no_other_plugin(path):
    plugin = path.relative_to(ROOT / "plugins").parts[0]
    assert plugin_offences(path.read_text(), plugin) == []


def test_every_core_module_has_a_level():
    there = set(MODULES) - {""}
    assert there - set(LEVEL_OF) == set(), "give these modules a level in LEVELS"
    assert set(LEVEL_OF) - there == set(), "these modules are gone: take them out of LEVELS"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_go_down(module):
    assert level_offences(MODULES[module].read_text(), module) == []


def test_the_public_modules_are_public():
    assert set(PUBLIC_MODULES) <= set(cellfeat.__all__)
    for name in cellfeat.__all__:
        assert getattr(cellfeat, name) is not None


def entry_modules() -> list[str]:
    """The modules that the shipped plugins' entry points name."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    return sorted(value.partition(":")[0] for group in groups.values() for value in group.values())


def test_every_plugin_folder_has_an_entry_point():
    assert {name.partition(".")[0] for name in entry_modules()} - {"cellfeat"} == set(PLUGIN_NAMES)


@pytest.mark.parametrize("module", ["cellfeat", "cellfeat.cli", *entry_modules()])
def test_importing_loads_no_heavy_library_and_changes_nothing(module):
    code = (
        "import os, random, sys, warnings, numpy\n"  # NumPy sets filters of its own for warnings
        "def state(): return dict(os.environ), random.getstate(), list(warnings.filters), os.getcwd()\n"
        f"before = state()\nimport {module}\n"
        f"print(sorted(set({HEAVY}) & set(sys.modules)), before == state())"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert (done.stdout.strip(), done.stderr) == ("[] True", "")


@pytest.mark.parametrize(
    "path", [*MODULES.values(), *plugin_files()], ids=lambda path: str(path.relative_to(ROOT).with_suffix(""))
)
def test_importing_does_nothing(path):
    assert work_on_import(path.read_text()) == []


# The checks themselves, on files that break the rules.


@pytest.mark.parametrize(
    ("line", "offence"),
    [
        ("from cellfeat.registry import installed", "line 2: cellfeat.registry.installed is not public API"),
        ("import cellfeat.store", "line 2: cellfeat.store is not public API"),
        ("from cellfeat import registry", "line 2: cellfeat.registry is not public API"),
        ("from cellfeat_other import thing", "line 2: cellfeat_other is another plugin"),
        ("import cellfeat_other.part as part", "line 2: cellfeat_other.part is another plugin"),
        ("importlib.import_module('cellfeat.registry')", "line 2: cellfeat.registry is not public API"),
        ("__import__('cellfeat_other')", "line 2: cellfeat_other is another plugin"),
    ],
)
def test_a_plugin_that_reaches_too_far_is_named_wherever_it_does(line, offence):
    assert plugin_offences(f"def f():\n    {line}", "cellfeat_mine") == [offence]
    assert plugin_offences(f"if TYPE_CHECKING:\n    {line}", "cellfeat_mine") == [offence]


@pytest.mark.parametrize(
    "line",
    [
        "from cellfeat import Cells, hookimpl, __version__",
        "from cellfeat import metrics",
        "import cellfeat",
        "import cellfeat.training",
        "from cellfeat.images import resize",
        "from cellfeat_mine.network import Network",
        "from . import network",
        "from .network import Network",
        "import torch",
    ],
)
def test_a_plugin_may_import_the_public_api_and_itself(line):
    assert plugin_offences(line, "cellfeat_mine") == []


@pytest.mark.parametrize(
    ("module", "line", "offence"),
    [
        ("types", "from cellfeat.store import Store", "types (level 1) imports store (level 2)"),
        ("types", "from cellfeat import slots, store", "types (level 1) imports store (level 2)"),
        ("types", "from cellfeat import artifacts", "types (level 1) imports artifacts (level 1)"),
        ("types", "from . import store", "types (level 1) imports store (level 2)"),
        ("store", "from cellfeat.commands.data import app", "store (level 2) imports commands.data (level 17)"),
        ("commands.data", "from .weights import app", "commands.data (level 17) imports commands.weights (level 17)"),
        (
            "types",
            "from cellfeat import Context",
            "types imports Context from cellfeat itself: name the module",
        ),
    ],
)
def test_an_import_that_does_not_go_down_is_named(module, line, offence):
    [found] = level_offences(f"def f():\n    {line}", module)
    assert found.startswith(offence)
    assert level_offences(f"if TYPE_CHECKING:\n    {line}", module) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.manual_seed(0)",
        "import torch\nif True:\n    torch.set_num_threads(1)",
        "class A:\n    cv2.setNumThreads(0)",
        "args = argparse.ArgumentParser().parse_args()",
        "def f(x=np.random.seed(1)): pass",
        "import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '1'",
        "import torch.backends\ntorch.backends.cudnn.deterministic = True",
        "try:\n    warnings.filterwarnings('ignore')\nexcept Exception: pass",
        "print('loaded')",
    ],
)
def test_work_on_import_is_found(source):
    assert len(work_on_import(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    torch.manual_seed(0)",
        "class A:\n    def f(self):\n        self.x = 1",
        "if __name__ == '__main__':\n    main(parser.parse_args())",
        "X = dict(a=1)\nY: int = 3\nf = lambda: open('x')",
        "import os\ndef f(): pass\nf.weights = os.sep",
    ],
)
def test_work_in_functions_is_no_work_on_import(source):
    assert work_on_import(source) == []
