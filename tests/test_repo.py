"The repository itself: sizes, layers, documentation, links, and that nothing of one machine is in it."
import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from videossr import runs

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    "files", "folders", "video", "demo", "show", "settings", "tables", "_versions", "tasks", "replies", "rewards", "answers", "own_rewards", "reward_options", "controls", "beyond", "floors", "data",
    "prefetch", "checkpoints", "families", "released", "policy", "prefix", "rows", "grpo", "memory", "adaptive", "perception", "pretrain", "downstream",
    "records", "backends", "viubench", "evaluate", "columns", "benchmarks", "mixing", "reliance", "watch", "runs", "launch", "sweep", "passk", "first_gpu", "push", "peers", "viewers",
]  # fmt: skip
READ_FIRST = ["video", "demo", "show"]  # though they stand on helpers, which few want to read first
DOORS = {"index", "train", "evaluate", "evaluate_public", "build_dataset"}
COMMANDS = [
    "pip install -e . && papermill nbs/train.ipynb train-out.ipynb",
    'pip install -e ".[dev]" && nbdev_test && pytest -n 2 --dist loadfile',
]


def tracked():
    "Files that are in git, or would be with the next commit."
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], check=False, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        return [path for folder in ("nbs", "videossr", "tests", "environments") for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


FILES = tracked()
MODULES = sorted(path for path in (ROOT / "videossr").rglob("*.py") if path.name != "_modidx.py")
NOTEBOOKS = sorted(path for path in FILES if path.suffix == ".ipynb")
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
CELLS = {path: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in NOTEBOOKS}
RECIPES = sorted((ROOT / "environments" / "recipes").glob("*.yaml"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def source_of(cell):
    return "".join(cell["source"])


def length_of(node):
    return node.end_lineno - min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) + 1


def each_notebook(test):
    return pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)(test)


def each_module(test):
    return pytest.mark.parametrize("path", MODULES, ids=name_of)(test)


def test_top_level():
    "Notebooks, package, environments, tests, and the few files a repository needs."
    folders = {path.relative_to(ROOT).parts[0] for path in FILES if path.parent != ROOT}
    assert folders <= {"nbs", "videossr", "environments", "tests", ".ci", ".github"}


def test_layout_of_notebooks():
    "Doors at the top, numbered chapters and tutorials, experiments, and no other folders."
    places = {path: path.relative_to(ROOT / "nbs").parts for path in FILES if (ROOT / "nbs") in path.parents}
    assert {Path(parts[0]).stem for parts in places.values() if len(parts) == 1} == DOORS
    assert {parts[0] for parts in places.values() if len(parts) > 1} == {"chapters", "tutorials", "experiments", "images"}
    assert not [parts for path, parts in places.items() if path.suffix == ".ipynb" and len(parts) > 2]
    for folder in ("chapters", "tutorials"):
        names = [path.stem for path in NOTEBOOKS if path.parent.name == folder]
        numbers = [re.fullmatch(r"(\d\d)_[a-z][a-z0-9_]*", name).group(1) for name in names]
        assert len(numbers) == len(set(numbers)), f"two {folder} of one number"


def test_chapters_are_numbered_as_they_are_read():
    "In the order of LAYERS, and nothing is exported from elsewhere."
    exports = {path: name for path in NOTEBOOKS for cell in CELLS[path] for name in re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", source_of(cell), re.MULTILINE)}
    assert set(exports) == {path for path in NOTEBOOKS if path.parent.name == "chapters"}
    layers = [exports[path].split(".")[0] for path in sorted(exports)]
    order = [*READ_FIRST, *(layer for layer in LAYERS if layer not in READ_FIRST)]
    assert layers == sorted(layers, key=order.index)


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in {".md", ".ipynb"}], ids=name_of)
def test_chapters_are_called_by_their_numbers(path):
    "`[chapter 43](...)` and `[43 GRPO](...)` lead to chapter 43, and no number stands without its link."
    text = path.read_text(encoding="utf-8") if path.suffix == ".md" else "\n".join(source_of(cell) for cell in CELLS[path])
    for label, number in re.findall(r"\[([^\[\]]+)\]\([^)\s]*\b(\d\d)_\w+\.ipynb[^)]*\)", re.sub(r"\]\([^)\s]*tutorials/[^)]*\)", "]", text)):
        said = re.match(r"(?:[Cc]hapter )?(\d\d)(?=$| [A-Z])", label)
        assert not said or said.group(1) == number, label
    assert not re.search(r"(?<!\[)\b[Cc]hapters? \d\d\b", text)


def test_weight():
    limits = {".safetensors": 10_000_000}  # of the policy that ships
    heavy = {name_of(path): path.stat().st_size for path in FILES if path.stat().st_size > limits.get(path.suffix, 1_500_000)}
    assert not heavy


# ---------------------------------------------------------------------------------------------------------- notebooks


@each_notebook
def test_notebook_is_light(path):
    assert path.stat().st_size < 300_000


@each_notebook
def test_notebook_opens_with_what_it_gives(path):
    first = CELLS[path][0]
    assert first["cell_type"] == "markdown"
    lines = [line for line in source_of(first).splitlines() if line.strip()]
    assert re.match(r"# \S", lines[0])
    assert re.match(r"> \S.*[.!?]$", lines[1])
    assert len(lines) > 2, "a sentence or two more"


@each_notebook
def test_notebook_metadata(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    for cell in notebook["cells"]:
        assert set(cell["metadata"]) <= {"tags"}
        for output in cell.get("outputs", ()):
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), "a widget says nothing without its kernel"
            assert output["output_type"] != "error", "".join(output.get("evalue", ""))


@each_notebook
def test_exported_cells_are_small(path):
    for cell in CELLS[path]:
        source = source_of(cell)
        if cell["cell_type"] == "code" and re.match(r"#\s*\|\s*exporti?\b", source):
            statements = ast.parse(source).body
            # A class cannot be cut; it has a limit of its own. The line that registers it may follow.
            one_class = isinstance(statements[0], ast.ClassDef) and all(isinstance(one, ast.Expr) for one in statements[1:])
            assert len(source.splitlines()) - 1 <= (150 if one_class else 40), source[:80]


@each_notebook
def test_notebook_has_no_wildcard_import(path):
    code = "\n".join(source_of(cell) for cell in CELLS[path] if cell["cell_type"] == "code")
    assert not re.search(r"^\s*from \S+ import \*", code, re.MULTILINE)


@each_notebook
def test_chapter_checks_itself(path):
    "A chapter that exports also shows, and has checks that could fail."
    code = [source_of(cell) for cell in CELLS[path] if cell["cell_type"] == "code"]
    exported = [source for source in code if re.match(r"#\s*\|\s*export\b", source)]
    if not exported:
        return
    checks = [source for source in code if source not in exported and re.search(r"\b(test_\w+\(|assert )", source)]
    assert len(checks) * 2 >= len(exported)
    assert any(re.search(r"^#+ Errors", source_of(cell), re.MULTILINE) for cell in CELLS[path]), "no section on errors"


@each_notebook
def test_notebook_links(path):
    check_links(path, "\n".join(source_of(cell) for cell in CELLS[path] if cell["cell_type"] == "markdown"))


# ------------------------------------------------------------------------------------------------------------ package


@each_module
def test_functions_and_classes_are_small(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert length_of(node) < 60, node.name
        elif isinstance(node, ast.ClassDef):
            assert length_of(node) < 150, node.name


@each_module
def test_module_imports_are_named(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom):
            assert "*" not in [alias.name for alias in node.names], f"line {node.lineno}"


def imported_chapters(path):
    "Chapters that a module imports anywhere, also within functions."
    package = ("videossr", *path.relative_to(ROOT / "videossr").parts[:-1])
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("videossr."))


@each_module
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "videossr").with_suffix("").parts
    if parts == ("__init__",):
        assert not list(imported_chapters(path))
        return
    own = LAYERS.index(parts[0])
    for chapter in imported_chapters(path):
        rank = LAYERS.index(chapter)
        assert rank < own or (parts[0] == chapter and len(parts) > 1), f"imports {chapter}"


@each_module
def test_no_global_random_state(path):
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"\bnp\.random\.(?!default_rng|Generator|SeedSequence|PCG64|Philox)\w+", source)
    assert "random" not in [name for node in ast.walk(TREES[path]) if isinstance(node, ast.Import) for name in (a.name for a in node.names)]


def is_overload(node):
    return any(isinstance(decorator, ast.Name) and decorator.id == "overload" for decorator in node.decorator_list)


def public_definitions(tree):
    "Functions and classes without an underscore, and the methods of those classes."
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_") and not is_overload(inner):
                        yield f"{node.name}.{inner.name}", inner


@each_module
def test_public_names_are_documented(path):
    assert ast.get_docstring(TREES[path]), "the module itself"
    overrides = {"on_train_begin", "on_step_end", "on_log", "on_train_end"}  # documented where they come from
    bare = [name for name, node in public_definitions(TREES[path]) if not ast.get_docstring(node) and node.name not in overrides]
    assert not bare


@each_module
def test_public_functions_are_annotated(path):
    bare = []
    for name, node in public_definitions(TREES[path]):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        bare += [f"{name}({one.arg})" for one in arguments if one.annotation is None and one.arg not in ("self", "cls")]
        bare += [f"{name} ->"] if node.returns is None else []
    assert not bare


@each_module
def test_public_parameters_have_names(path):
    "One letter is for a formula's own symbols; `n` for a count is understood."
    for name, node in public_definitions(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            short = [one.arg for one in [*node.args.args, *node.args.kwonlyargs] if len(one.arg) == 1 and one.arg != "n"]
            assert not short, name


@each_module
def test_errors_are_not_swallowed(path):
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            quiet = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            assert not (quiet and broad), f"line {node.lineno}"


def test_version_has_one_home():
    version = re.search(r'__version__ = "(.+?)"', (ROOT / "videossr" / "__init__.py").read_text()).group(1)
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)
    project = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in project and "videossr.__version__" in project
    stated = re.search(r"^version *= *(\S+)", (ROOT / "settings.ini").read_text(), re.MULTILINE)
    assert stated is None or stated.group(1) == version, "nbdev wants a version in settings.ini: keep it equal"
    assert re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE).group(1) == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert not [page for page in ("README.md", "RESULTS.md", "LIMITS.md") if version in (ROOT / page).read_text()]


@pytest.mark.skipif(tomllib is None, reason="tomllib is new in Python 3.11")
def test_imports_are_declared():
    "What a chapter or notebook imports is a dependency of its own, not by luck another's."
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line).group().lower() for line in project["dependencies"]}
    trees = [*TREES.values(), *(ast.parse(source_of(cell)) for cell in CELLS[ROOT / "nbs" / "train.ipynb"] if cell["cell_type"] == "code")]
    modules = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules.add(node.module.split(".")[0])
    comes_with = {"PIL": "pillow", "yaml": "pyyaml", "tokenizers": "transformers", "safetensors": "transformers", "huggingface_hub": "transformers", "IPython": "ipykernel"}
    optional = {"torchcodec", "peft", "vllm", "bitsandbytes", "httpx", "ray", "rouge_score", "lmms_eval"}
    needed = {comes_with.get(name, name) for name in modules - set(sys.stdlib_module_names) - optional - {"videossr"}}
    assert needed <= declared


# --------------------------------------------------------------------------------------------------------- whole repo


def spread(*parts):
    "A pattern put together here, so that this file does not match itself."
    return "".join(parts)


PLACES = re.compile(
    "|".join(
        [
            spread(r"(?<![\w.~-])/(?:wor", r"k|roo", r"t|hom", r"e/\w|Use", r"rs/\w|mn", r"t/\w|opt/py", r"pi|tmp/bash_", r"jobs)(?:/|\b)"),
            spread(r"[A-Za-z]:\\", r"Users\\"),
            spread(r"files\.python", r"hosted|py", r"pi\.org/simple|extra-", r"index-url|find-", r"links|localhost", r":\d{4}"),
            spread(r"https?://[^\s/]*(?:proxy|mirror|artifact", r"ory|nexus)"),
        ]
    )
)
TEXT = {".py", ".md", ".ipynb", ".toml", ".ini", ".yaml", ".yml", ".txt", ".json", ".sh", ""}


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in TEXT and path.name != "LICENSE"], ids=name_of)
def test_nothing_of_one_machine(path):
    text = re.sub(r'"image/png": "[^"]*"|base64,[\w+/=\\n]+', "", path.read_text(encoding="utf-8"))
    assert not [found.group() for found in PLACES.finditer(text)]


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix in {".py", ".ipynb", ".sh"}], ids=name_of)
def test_nothing_is_left_undone(path):
    assert not re.search(spread(r"\b(TO", r"DO|FIX", r"ME|XX", r"X)\b"), path.read_text(encoding="utf-8"))


def slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def check_links(path, text):
    "Relative links and pictures lead to files of the checkout, and #anchors to headings."
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", prose):
        target = target[0] or target[1]
        if re.match(r"https?:|mailto:|data:", target):
            continue
        place, _, anchor = target.partition("#")
        goal = (path.parent / place).resolve() if place else path
        assert goal.exists(), f"{target} leads nowhere"
        if place:
            known = goal in FILES or any(goal in one.parents for one in FILES)
            assert known, f"{target} is not in git"
        if anchor and goal.suffix == ".md":
            assert anchor in [slug(line.lstrip("# ")) for line in goal.read_text(encoding="utf-8").splitlines() if line.startswith("#")], target


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".md"], ids=name_of)
def test_links(path):
    check_links(path, path.read_text(encoding="utf-8"))


FRONT = {path: (ROOT / path).read_text(encoding="utf-8") for path in ("README.md", "RESULTS.md", "LIMITS.md", "environments/README.md")}
FRONT["nbs/index.ipynb"] = "\n\n".join(source_of(cell) for cell in CELLS[ROOT / "nbs" / "index.ipynb"] if cell["cell_type"] == "markdown")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("page", ["README.md", "nbs/index.ipynb"])
def test_the_two_commands(page, command):
    assert command in FRONT[page].splitlines()


def rows_of_index():
    "Title, link, module (or nothing) and the rest of each table row that begins with a notebook."
    for title, link, rest in re.findall(r"^\| \[([^]]+)\]\(([^)]+\.ipynb)\) \| (.+) \|$", FRONT["nbs/index.ipynb"], re.MULTILINE):
        yield title, link, *(rest.split(" | ") if rest.count(" | ") else ("", rest))


def test_index_maps_every_notebook():
    "Each notebook has one row of its own, with the module that it exports, and what it gives."
    rows = {(ROOT / "nbs" / link).resolve(): (title, module, what) for title, link, module, what in rows_of_index()}
    assert len(rows) == len(list(rows_of_index())), "a notebook with two rows"
    assert set(rows) == set(NOTEBOOKS) - {ROOT / "nbs" / "index.ipynb"}
    tables = [source_of(cell) for cell in CELLS[ROOT / "nbs" / "index.ipynb"] if ".ipynb) |" in source_of(cell)]
    assert all(re.match(r"## \w.*\n", table) and table.count("\n## ") == 0 for table in tables), "a heading for each table: .ci/site.py makes the navigation of them"
    for path, (title, module, what) in rows.items():
        exports = [name for cell in CELLS[path] for name in re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", source_of(cell), re.MULTILINE)]
        assert module == (f"`videossr.{exports[0]}`" if exports else ""), title
        assert len(what) > 10, title


def test_readme_is_a_front_door():
    "A sentence, a picture, what ran where, a command, in this order; a viewer; and no more words than two screens hold."
    lines = [line for line in FRONT["README.md"].splitlines() if line.strip()]
    assert lines[0].startswith("# ") and lines[1].rstrip(" *").endswith(".")
    picture = next(place for place, line in enumerate(lines) if "![" in line or "<img" in line)
    honest = next(place for place, line in enumerate(lines) if "**Not run:**" in line and "(LIMITS.md)" in line)
    assert 1 < picture < honest < lines.index(COMMANDS[0]) < 12
    assert "AnomalyViewer(sample" in FRONT["README.md"]
    assert {"LIMITS.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "nbs/index.ipynb"} <= set(re.findall(r"\]\(([^)#]+)\)", FRONT["README.md"]))
    assert len(FRONT["README.md"].split()) < 1000


@pytest.mark.parametrize("page", FRONT)
def test_pages_are_plain(page):
    assert "&nbsp;" not in FRONT[page] and "<img" not in FRONT[page]


def test_results_say_when_and_conclude():
    "Each section of RESULTS.md has a date, a table or picture, and a conclusion in bold."
    sections = re.split(r"^## ", FRONT["RESULTS.md"], flags=re.MULTILINE)[1:]
    assert len(sections) > 5
    for section in sections:
        assert re.search(r"\b2026-\d\d-\d\d\b", section), section[:60]
        assert re.search(r"^(\| -{3}|!\[)", section, re.MULTILINE) and re.search(r"^\*\*.+?[.:]?\*\*", section, re.MULTILINE), section[:60]


def commands_of(text):
    "Lines of the code blocks, and code within the text, that call this project by papermill, a module or a recipe."
    blocks = [line for block in re.findall(r"```(?:bash)?\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [command for command in (*blocks, *spans) if re.search(r"papermill nbs/|-m videossr\.|environments/", command)]


@pytest.mark.parametrize(("page", "command"), [(page, command) for page, text in FRONT.items() for command in dict.fromkeys(commands_of(text))])
def test_named_commands_exist(page, command):
    "Notebooks, modules, recipes and configurations that a command names exist, and so do its parameters, with values of their types."
    words = shlex.split(command.split("&&")[-1])
    for word in words:
        if re.match(r"(nbs|environments)/", word):
            assert (ROOT / word).exists(), word
        if re.match(r"videossr\.\w+$", word):
            assert ROOT / "videossr" / (word.removeprefix("videossr.") + ".py") in MODULES, word
    notebook = next((word for word in words if re.match(r"nbs/.+\.ipynb", word)), "nbs/train.ipynb")
    types = {"str": str, "int": int, "float": float, "bool": bool}
    kinds = {name: types[kind] for name, (kind, _) in parameters_of(Path(notebook).relative_to("nbs")).items()}
    if notebook == "nbs/train.ipynb":
        kinds |= {**runs.setting_types(), "tasks": str}
    given = [(words[place + 1], words[place + 2]) for place, word in enumerate(words) if word == "-p" and len(words) > place + 2]
    assert len(given) == words.count("-p") or words == ["-p", "name", "value"]
    for name, value in given:
        if (name, value) != ("name", "value"):  # as one writes of any of them
            assert name in kinds, name
            assert kinds[name] in (str, bool) or kinds[name](value) is not None


def test_every_picture_is_shown():
    "A picture that no page shows is weight."
    text = "".join(FRONT.values()) + "".join(source_of(cell) for cells in CELLS.values() for cell in cells if cell["cell_type"] == "markdown")
    assert not [name_of(path) for path in FILES if path.suffix == ".png" and path.name not in text]


# ------------------------------------------------------------------------------------------------------------ recipes


def parameters_of(notebook):
    "Names, types and defaults of a notebook's parameters cell."
    cell = next(cell for cell in CELLS[ROOT / "nbs" / notebook] if "parameters" in cell["metadata"].get("tags", ()))
    nodes = [node for node in ast.parse(source_of(cell)).body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: (node.annotation.id, ast.literal_eval(node.value)) for node in nodes}


@pytest.mark.parametrize("notebook", ["train.ipynb", "experiments/ablations.ipynb"])
def test_parameters_are_typed_and_explained(notebook):
    cell = next(cell for cell in CELLS[ROOT / "nbs" / notebook] if "parameters" in cell["metadata"].get("tags", ()))
    for line in source_of(cell).splitlines():
        assert re.match(r"\w+: (str|int|float|bool) = .+?  # \S", line), line
    types = {"str": str, "int": int, "float": float, "bool": bool}
    for name, (kind, value) in parameters_of(notebook).items():
        assert type(value) is types[kind], name


def test_there_are_recipes():
    assert {path.stem for path in RECIPES} >= {"tiny", "one-gpu", "paper"}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe(path):
    "Every recipe is a flat list of the parameters of its notebook, of their types, with settings that exist."
    notebook = "experiments/ablations.ipynb" if path.stem == "ablations" else "train.ipynb"
    recipe, known = yaml.safe_load(path.read_text(encoding="utf-8")), parameters_of(notebook)
    types = {"str": str, "int": int, "float": float, "bool": bool}
    kinds = {**(runs.setting_types() if path.stem != "ablations" else {}), **{name: types[kind] for name, (kind, _) in known.items()}}
    assert set(recipe) <= set(kinds)
    for name, value in recipe.items():
        assert type(value) is kinds[name], f"{name}: {value!r} (YAML reads 1e-6 as text: write 1.0e-6)"
    settings = {name: value for name, value in recipe.items() if name in runs.TrainSettings.__dataclass_fields__}
    made = runs.train_settings(recipe.get("preset", "demo"), **settings)
    assert all(getattr(made, name) == value for name, value in settings.items())
    if made.grpo == "demo":
        assert made.groups >= 1 and made.group_size >= 2
