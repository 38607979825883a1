"""Parameters of every notebook, recipe and command line: right, or refused before anything is loaded."""

import ast
import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import nbformat
import papermill.cli
import pytest
import yaml
from papermill.translators import PythonTranslator
from trl import GRPOTrainer

from videossr import launch, runs
from videossr.grpo import VideoGRPOConfig
from videossr.settings import check_parameters, options_text, read_named, read_options, read_value, read_yaml

ROOT = Path(__file__).resolve().parent.parent


def cells_of(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def parameters_cell(path):
    "Place and source of a notebook's parameters cell, if it has one."
    return next(((place, cell.source) for place, cell in enumerate(cells_of(path)) if "parameters" in cell.metadata.get("tags", ())), None)


NOTEBOOKS = {path.relative_to(ROOT / "nbs").as_posix(): path for path in sorted((ROOT / "nbs").rglob("*.ipynb")) if parameters_cell(path)}
TYPES = {"str": str, "int": int, "float": float, "bool": bool}


def declared(path):
    "Name -> (type, default) of all parameters of a notebook."
    lines = ast.parse(parameters_cell(path)[1]).body
    return {line.target.id: (TYPES[line.annotation.id], ast.literal_eval(line.value)) for line in lines}


PARAMETERS = [(name, parameter, kind) for name, path in NOTEBOOKS.items() for parameter, (kind, _) in declared(path).items()]
each_parameter = pytest.mark.parametrize(("name", "parameter", "kind"), PARAMETERS, ids=[f"{name}-{parameter}" for name, parameter, _ in PARAMETERS])
each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)

FOLDERS = ["trip #2", "0755", "007", "no", "~", "null", "true", "False", "None", "a: b", "100%", "%(x)s", "[1]", "{a}", " lead", "1e3", "1_000", "nan", "2024-01-01", "it's", 'a "b"', "a\\b", "é", "-1"]
WRONG = {
    bool: ["perhaps", "2", "", "None", 2, None, 0.5, ["true"]],
    int: ["4.5", "many", "", "None", "nan", True, None, 4.5, float("inf"), [4], "true"],
    float: ["many", "", "None", "nan", "inf", True, None, float("nan"), [0.5], "no"],
    str: [0.5, True, False, None, ["a"], float("nan")],
}
RIGHT = {
    bool: [(text, value) for value, texts in {False: ["false", "False", "FALSE", "0", "no", "NO", "off", 0], True: ["true", "True", "TRUE", "1", "yes", "Yes", "on", 1]}.items() for text in texts],
    int: [("4", 4), ("4.0", 4), (4.0, 4), ("0755", 755), ("-1", -1)],
    float: [("1e-6", 1e-6), ("4", 4.0), (4, 4.0), ("-1", -1.0)],
    str: [(folder, folder) for folder in FOLDERS] + [(2024, "2024"), (Path("a #b"), "a #b")],
}


MORE = {**runs.setting_types(), "tasks": str}  # parameters of train.ipynb that its first cell does not name


def kernel(path, given):
    "What a notebook's parameters are after papermill's own cell and the check behind it."
    source = parameters_cell(path)[1]
    injected = PythonTranslator.codify(given)
    namespace = {"In": ["", source, injected] if given else ["", source]}
    for cell in namespace["In"]:
        exec(compile(cell, path.name, "exec", dont_inherit=True), namespace)
    return check_parameters(namespace, MORE if path.name == "train.ipynb" else None), namespace


# ------------------------------------------------------------------------------------------------------------ notebooks


def test_there_are_notebooks():
    assert {"train.ipynb", "evaluate.ipynb", "build_dataset.ipynb", "experiments/ablations.ipynb"} <= set(NOTEBOOKS)


@each_notebook
def test_the_check_stands_behind_the_parameters(name):
    "In the first cell behind them, which loads nothing and does nothing else."
    place, _ = parameters_cell(NOTEBOOKS[name])
    behind = cells_of(NOTEBOOKS[name])[place + 1].source
    assert "check_parameters(globals()" in behind
    lines = ast.parse(behind).body
    assert all(isinstance(line, ast.ImportFrom) for line in lines[:-1]) and not any(isinstance(line, ast.ImportFrom) for line in lines[-1:])


@each_notebook
def test_papermill_knows_the_parameters(name):
    "It reads the cell line by line; one that it cannot read, as with = in the comment, would be called unknown."
    found = [one.name for one in PythonTranslator.inspect(nbformat.v4.new_code_cell(parameters_cell(NOTEBOOKS[name])[1]))]
    assert found == [*declared(NOTEBOOKS[name])]


@each_notebook
def test_defaults_are_what_they_are(name):
    found, namespace = kernel(NOTEBOOKS[name], {})
    assert found == {parameter: default for parameter, (_, default) in declared(NOTEBOOKS[name]).items()}
    assert all(type(namespace[parameter]) is kind for parameter, (kind, _) in declared(NOTEBOOKS[name]).items())


@each_parameter
def test_right_values(name, parameter, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given, value in RIGHT[kind]:
        given = given if not isinstance(given, Path) else str(given)
        if parameter == "recipe" and value:  # a file of that name
            place = tmp_path / value
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("{}")
        found, namespace = kernel(NOTEBOOKS[name], {parameter: given})
        assert found[parameter] == value == namespace[parameter] and type(found[parameter]) is kind, given


@each_parameter
def test_wrong_values_are_refused_by_name(name, parameter, kind):
    for given in WRONG[kind]:
        with pytest.raises(ValueError, match=rf"^{parameter} should be {kind.__name__}, not ") as caught:
            kernel(NOTEBOOKS[name], {parameter: given})
        assert repr(given) in str(caught.value)


@each_notebook
def test_unknown_parameters_stop(name):
    near = next(iter(declared(NOTEBOOKS[name])))
    with pytest.raises(ValueError, match=f"no parameter {near}x; did you mean .*{near}"):
        kernel(NOTEBOOKS[name], {f"{near}x": 1})


OF_THE_OTHER = [("evaluate.ipynb", {"public_frames": "4"}, "no parameter public_frames here: it belongs to nbs/evaluate_public.ipynb"), ("evaluate_public.ipynb", {"video_dir": "a", "fps": 2.0}, "no parameter fps, video_dir here: it belongs to nbs/evaluate.ipynb")]


@pytest.mark.parametrize(("name", "given", "told"), OF_THE_OTHER)
def test_a_parameter_of_the_other_notebook_is_refused_with_a_hint(name, given, told):
    "And all that only the other one has."
    (place, source), (_, others) = (parameters_cell(NOTEBOOKS[one]) for one in (name, *({"evaluate.ipynb", "evaluate_public.ipynb"} - {name})))
    behind = cells_of(NOTEBOOKS[name])[place + 1].source
    alone = {line.partition(":")[0] for line in others.splitlines()} - {line.partition(":")[0] for line in source.splitlines()}
    for some, words in ((given, told), *(({one: "1"}, f"no parameter {one} here") for one in sorted(alone))):
        cells = ["", source, PythonTranslator.codify(some)]
        space = {"In": cells}
        for cell in cells:
            exec(cell, space)
        with pytest.raises(ValueError, match=words):
            exec(behind, space)


def test_papermill_s_own_names_are_let_through():
    kernel(NOTEBOOKS["train.ipynb"], {"PAPERMILL_INPUT_PATH": "a", "PAPERMILL_OUTPUT_PATH": "b"})


def test_a_notebook_may_be_run_twice():
    "In JupyterLab, the check meets all names that the notebook has made since."
    path = NOTEBOOKS["experiments/bench_data.ipynb"]
    _, namespace = kernel(path, {"seed": "3"})
    namespace["In"] += ["rows = 3\ncount: int = 4", "folder = 'x'"]
    namespace |= {"rows": 3, "folder": "x"}
    assert check_parameters(namespace)["seed"] == 3
    namespace["In"].append(namespace["In"][1] + "\nsede = 4")  # the parameters cell once more, changed
    namespace["sede"] = 4
    with pytest.raises(ValueError, match="no parameter sede; did you mean seed"):
        check_parameters(namespace)


# A cell that a kernel runs in place of the rest of a notebook.
SHOW = "import json\nprint(json.dumps({name: globals()[name] for name in __annotations__ if name in globals()}))"


@pytest.fixture
def papermilled(tmp_path):
    "Runs the first cells of a notebook by papermill's command line, in a folder of its own; gives the parameters or the error."

    def run(name, *arguments):
        place, _ = parameters_cell(NOTEBOOKS[name])
        notebook = nbformat.read(NOTEBOOKS[name], 4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"][: place + 2]
        notebook.cells = [*code, nbformat.v4.new_code_cell(SHOW)]
        nbformat.write(notebook, tmp_path / "cut.ipynb")
        command = [sys.executable, "-m", "papermill", "cut.ipynb", "out.ipynb", "--no-progress-bar", *map(str, arguments)]
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(command, check=False, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        if done.returncode:
            return done.stderr
        return json.loads(cells_of(tmp_path / "out.ipynb")[-1].outputs[0].text)

    return run


def test_by_papermill(papermilled, tmp_path):
    "What it converts comes back as it was written, on the command line and in a recipe."
    (tmp_path / "a recipe.yaml").write_text("video_dir: 0644\narms: fixed\nsteps: 7\n")
    given = papermilled("experiments/adaptive_ab.ipynb", "-f", "a recipe.yaml", "-p", "strict", "false", "-p", "output_dir", "0755", "-p", "seeds", "0", "-p", "workers", "2.0", "-r", "arms", "1e3")
    assert isinstance(given, dict), given[-2000:]
    wanted = {"video_dir": "0644", "arms": "1e3", "steps": 7, "strict": False, "output_dir": "0755", "seeds": "0", "workers": 2}
    assert {name: given[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["-p", "stepps", "3"], "no parameter stepps; did you mean steps"), (["-y", "output_dir: no"], "output_dir should be str, not False")],
)
def test_papermill_is_stopped(papermilled, arguments, said):
    assert said in papermilled("experiments/adaptive_ab.ipynb", *arguments)


@pytest.mark.parametrize("text", FOLDERS)
def test_what_papermill_loses(text):
    "Without its command line, a value that papermill made of a text is either that text or refused."
    value = papermill.cli._resolve_type(text)
    try:
        found = read_value("output_dir", value, str)
    except ValueError:
        return
    assert found == text or (isinstance(value, int) and found == str(value)), "an int whose text nobody knows is written in decimals"


# ------------------------------------------------------------------------------------------------------------ launcher

KINDS = {**launch._PARAMETERS, **runs.setting_types()}


def members(kind):
    return [kind] if kind in TYPES.values() else list(typing.get_args(kind))


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_of_the_launcher(name, tmp_path):
    (kind,) = [member for member in members(KINDS[name]) if member is not type(None)]
    texts = [(given, value) for given, value in RIGHT[kind] if isinstance(given, str) and not (given in ("None", "null", "~") and kind is not KINDS[name])]
    for given, value in texts:
        assert launch.read_parameters(None, [(name, given)]) == {name: value}
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({name: given}))
        assert launch.read_parameters(recipe) == {name: value}
    for given in WRONG[kind]:
        if isinstance(given, str) and kind is KINDS[name]:
            with pytest.raises(ValueError, match=f"{name} should be {kind.__name__}, not "):
                launch.read_parameters(None, [(name, given)])


@pytest.mark.parametrize(("line", "value"), [("0755", "0755"), ("2024", "2024"), ("1e3", "1e3"), ("1.10", "1.10"), ("2024-01-01", "2024-01-01"), ("trip #2", "trip"), ("'trip #2'", "trip #2"), ("'no'", "no")])
def test_texts_in_recipes(line, value, tmp_path):
    "As YAML has it where a text ends, and as it was written where YAML made a number of it."
    (tmp_path / "recipe.yaml").write_text(f"output_dir: {line}\n")
    assert launch.read_parameters(tmp_path / "recipe.yaml") == {"output_dir": value}


@pytest.mark.parametrize("line", ["no", "~", "", "true", "[a]", "{a: b}"])
def test_what_is_no_text_in_a_recipe(line, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"output_dir: {line}\n")
    with pytest.raises(ValueError, match=r"recipe.yaml: output_dir should be str, not "):
        launch.read_parameters(tmp_path / "recipe.yaml")


def test_a_run_goes_where_it_was_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("trip #2", "0755", "no", "2024"):
        run = launch.open_run(launch.read_parameters(None, [("output_dir", folder)]))
        assert (tmp_path / folder / "config.json").is_file() and run.folder == Path(folder)
    with pytest.raises(ValueError, match="no parameter stepps"):
        launch.open_run({"stepps": 3})


# ------------------------------------------------------------------------------------------------------------- options

FIELDS = {name: kind for name, kind in typing.get_type_hints(VideoGRPOConfig).items()}
DECIDED = {name for names in runs._DECIDED.values() for name in names.split()}


@pytest.mark.parametrize("name", FIELDS)
def test_every_option(name):
    "Its default, written as a text, is read back; a run's own is refused with what to give instead."
    entry = VideoGRPOConfig.__dataclass_fields__[name]
    default = entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()
    default = getattr(default, "value", default)
    if name in DECIDED:
        with pytest.raises(ValueError, match=rf"{name} cannot be an option of a run: "):
            runs.read_changes({name: default})
        return
    if not {bool, str} <= set(members(FIELDS[name])):  # whether "no" is a text, only the trainer knows
        assert runs.read_changes(options_text({name: default})) == {name: default}
    numbers = [member for member in members(FIELDS[name]) if member in (int, float, bool)]
    if numbers and str not in members(FIELDS[name]):
        with pytest.raises(ValueError, match=f"{name} should be "):
            runs.read_changes(f"{name}=perhaps")


def test_decided_names_are_fields():
    assert DECIDED <= set(FIELDS)


def test_losses_are_trl_s():
    "Each is one that TRL's loss knows, and none is missing."
    tests = re.findall(r"self\.loss_type (?:==|in) (\[[^\]]*\]|\"\w+\")", inspect.getsource(GRPOTrainer._compute_loss))
    assert {name for test in tests for name in re.findall(r"\w+", test)} == set(runs._LOSSES)


def test_options_from_each_door(tmp_path):
    "The command line, a recipe's text and a recipe's mapping are the same run."
    text, folder = "loss_type=dr_grpo epsilon_high=0.28 steps=3 log_completions=no", {"output_dir": str(tmp_path / "run")}
    (tmp_path / "text.yaml").write_text(f"options: {text}\n")
    (tmp_path / "mapping.yaml").write_text("options:\n  loss_type: dr_grpo\n  epsilon_high: 0.28\n  steps: 3\n  log_completions: no\n")
    doors = [launch.read_parameters(None, [("options", text)]), *(launch.read_parameters(tmp_path / f"{name}.yaml") for name in ("text", "mapping"))]
    made = [runs.settings_of(door) for door in doors]
    assert made[0] == made[1] == made[2] and made[0].options == {"loss_type": "dr_grpo", "epsilon_high": 0.28, "log_completions": False}
    run = launch.open_run({**doors[0], **folder})
    assert json.loads(run.path("config.json").read_text())["options"] == made[0].options
    assert launch.settings_in(run)[0] == made[0]
    launch.open_run({**doors[2], **folder})
    with pytest.raises(ValueError, match="options is .*dr_grpo.* there, .*dapo.* here"):
        launch.open_run({"options": text.replace("dr_grpo", "dapo"), **folder})
    config = runs.grpo_config(run, made[0], 0)
    assert (config.loss_type, config.epsilon_high, config.max_steps) == ("dr_grpo", 0.28, 3)


def test_options_survive_quotes():
    for text in FOLDERS:
        assert read_options(options_text({"run_name": text})) == {"run_name": text}


def test_curves_stay_here(tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    run = runs.Run(tmp_path)
    with runs._curves_in(run):
        assert os.environ["WANDB_MODE"] == "offline" and Path(os.environ["WANDB_DIR"]) == tmp_path
    assert "WANDB_MODE" not in os.environ
    monkeypatch.setenv("WANDB_MODE", "online")
    with runs._curves_in(run):
        assert os.environ["WANDB_MODE"] == "online"


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_missing_logger_is_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(ImportError, match=f"pip install {name}"):
        launch.open_run({"options": f"report_to={name}", "output_dir": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


# -------------------------------------------------------------------------------------------------------------- reward


@pytest.fixture
def wishes(tmp_path, monkeypatch):
    "A module of rewards in the folder that one works in."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "some_wishes", raising=False)
    path = tmp_path / "some_wishes.py"
    path.write_text("def digits(completions, **columns):\n    return [sum(map(str.isdigit, one[0]['content'])) / 8 for one in completions]\n\n\n"
                    "def bad(completions, **columns):\n    return [float('nan')] * len(completions)\n")  # fmt: skip
    yield path
    sys.modules.pop("some_wishes", None)


SMALL = {"steps": 1, "n_train": 6, "n_held_out": 3, "warm_steps": 1, "groups": 2, "group_size": 4, "tasks": "jigsaw", "max_new_tokens": 4}


def test_a_reward_by_name(wishes, tmp_path):
    "It trains; held-out samples keep the tasks' own; another one, or a changed module, is another run."
    given = {**SMALL, "output_dir": str(tmp_path / "run"), "reward": "some_wishes:digits*0.5"}
    run = launch.open_run(given)
    found = launch.train_run(run, progress=False)
    config = run.read_json("config.json")
    assert config["reward"] == given["reward"] and set(config["reward_source"]) == {"some_wishes"}
    for group in run.rollout_rows():
        assert group["rewards"] == [pytest.approx(sum(map(str.isdigit, reply)) / 16, abs=1e-4) for reply in group["replies"]]
    assert run.log_rows()[0]["rewards/digits/mean"] >= 0 and set(found["tasks"]) == {"jigsaw"}
    with pytest.raises(ValueError, match=r"reward is 'some_wishes:digits\*0.5' there, 'some_wishes:digits' here"):
        launch.open_run({**given, "reward": "some_wishes:digits"})
    wishes.write_text(wishes.read_text().replace("/ 8", "/ 9"))
    with pytest.raises(ValueError, match="reward_source is"):
        launch.open_run(given)
    with pytest.raises(ValueError, match="the module some_wishes of the reward is not what it was"):
        launch.main(["--run", str(run.folder)])


def test_a_bad_reward_is_named_with_the_reply(wishes, tmp_path):
    run = launch.open_run({**SMALL, "output_dir": str(tmp_path / "run"), "reward": "some_wishes:bad"})
    with pytest.raises(ValueError, match="the reward bad gave nan, not finite; .* the reply was '"):
        launch.train_run(run, progress=False)


@pytest.mark.parametrize(("reward", "error", "said"), [("some_wishes:digit", ValueError, "some_wishes has digits, bad"), ("other_wishes:f", ImportError, "no module other_wishes"), ("digits", ValueError, "my_module:my_reward")])
def test_a_reward_that_is_not_there(wishes, tmp_path, reward, error, said):
    with pytest.raises(error, match=said):
        launch.open_run({**SMALL, "output_dir": str(tmp_path / "run"), "reward": reward})
    assert not (tmp_path / "run").exists()


def test_recipes_are_read_by_papermill_and_launcher_alike():
    "Each recipe holds what its notebook knows, of the right types."
    for path in sorted((ROOT / "environments" / "recipes").glob("*.yaml")) + sorted((ROOT / "environments" / "data").glob("*.yaml")):
        name = "experiments/ablations.ipynb" if path.stem == "ablations" else "build_dataset.ipynb" if path.parent.name == "data" else "train.ipynb"
        values, written = read_yaml(path.read_text(encoding="utf-8"), path.name)
        kinds = {parameter: kind for parameter, (kind, _) in declared(NOTEBOOKS[name]).items()}
        assert read_named(values, {**kinds, **(MORE if name == "train.ipynb" else {})}, written) == values


def test_a_recipe_counts_but_for_what_is_given_by_name(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 7\nseed: 3\ngroups: 2\n")
    found, namespace = kernel(NOTEBOOKS["train.ipynb"], {"recipe": str(file), "seed": 5})
    assert (found["steps"], found["seed"], found["groups"], namespace["steps"]) == (7, 5, 2, 7)
    assert "steps=7, seed=3, groups=2" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["'steps = __import__(\"os\").abort()': 3", "stepps: 3", "steps: many", "recipe: other.yaml", "- steps", "steps: !!python/object/apply:os.abort []"])
def test_a_recipe_with_anything_else_is_refused_and_not_run(tmp_path, line):
    file = tmp_path / "strange.yaml"
    file.write_text(line)
    with pytest.raises(ValueError, match="strange.yaml"):
        kernel(NOTEBOOKS["train.ipynb"], {"recipe": str(file)})
