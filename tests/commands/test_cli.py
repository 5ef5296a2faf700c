import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import instructrec_rl.run
from instructrec_rl.commands import list as listing
from instructrec_rl.commands import new
from instructrec_rl.core import InputError
from instructrec_rl.core import command_line as cli


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, with nothing named by the environment variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INSTRUCTREC_PATH", raising=False)
    return tmp_path


@pytest.fixture
def runs(monkeypatch):
    """Stands in for the experiment: the list of configurations it was given. 7 is wrong input, 8 our fault."""
    given = []

    def fake_run(config, command):
        if config.seed == 7:
            raise InputError("seven is bad", "data.jsonl", 3)
        if config.seed == 8:
            raise ValueError("our own")
        if config.seed == 9:
            raise KeyboardInterrupt
        given.append(config)

    module = types.ModuleType("instructrec_rl.run.experiment")
    module.run = fake_run
    monkeypatch.setitem(sys.modules, "instructrec_rl.run.experiment", module)
    monkeypatch.setattr(instructrec_rl.run, "experiment", module, raising=False)
    return given


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("INSTRUCTREC_PATH", None)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def outcome(capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.run_command(cli.dispatch, argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["env=pizza_re"], 'env=pizza_re: there is no such environment. Did you mean "pizza_rec"?'),
        (["algo.interactions=many"], 'algo.interactions=many: expected an integer, got "many"'),
        (["--multirum"], 'unknown flag "--multirum". Did you mean "--multirun"?'),
        (["-m", "algo=dqn,dqm"], 'algo=dqm: there is no such name. Did you mean "dqn"?'),
    ],
)
def test_wrong_input_exits_2_with_one_line(tmp_path, arguments, said):
    done = python("-m", "instructrec_rl.run", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        "cli.run_command(cli.dispatch, ['list', 'envs'])",
        "cli.run_command(cli.dispatch, ['list', 'rewards'])",
        "cli.run_command(cli.dispatch, ['list', 'algos'])",
        "cli.run_command(cli.dispatch, ['list', 'experiments'])",
        "cli.run_command(cli.dispatch, ['--help'])",
        "cli.run_command(cli.dispatch, ['run', '--help'])",
    ],
)
def test_quick_commands_import_nothing_heavy(tmp_path, command):
    code = (
        f"import sys; from instructrec_rl.core import command_line as cli; code = {command}\n"
        "print(code, sorted({'torch', 'hydra', 'omegaconf', 'gymnasium', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


def test_a_closed_pipe_is_no_fault(tmp_path):
    code = (
        "from instructrec_rl.core import command_line as cli; import sys\n"
        "sys.exit(cli.run_command(lambda _: print('x\\n' * 99999)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(), process.stderr.read()) == (0, b"")


def test_help_names_groups_options_and_examples(here, capsys):
    code, out, err = outcome(capsys, "run", "--help")
    assert (code, err) == (0, "")
    for part in (
        "  env ",
        "pizza_rec",
        "rouge",
        "dqn",
        "minilm",
        "algo.interactions=N",
        "env=pizza_rec reward=rouge",
        "-m seed",
    ):
        assert part in out
    assert outcome(capsys, "run", "seed=x", "-h")[0] == 0


def test_usage_names_every_command(capsys):
    code, out, _ = outcome(capsys)
    assert code == 0
    assert all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert outcome(capsys, "--version")[1] == f"instructrec-rl {instructrec_rl.__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lst"], 'there is no command "lst". Did you mean "list"? Known: '),
        (["list", "env"], 'list: there is no kind "env". Did you mean "envs"?'),
        (["list", "--hepl"], 'instructrec-rl list: unrecognized arguments: --hepl. Did you mean "--help"?'),
        (["new", "envv", "x"], 'new: there is no kind "envv". Did you mean "env"?'),
        (["new", "env", "Bad-name"], 'new: the name "Bad-name" must be lower case letters, digits and _'),
        (["new", "env"], "instructrec-rl new: the following arguments are required: name."),
        (["check", "rewards"], 'check: there is no kind "rewards". Did you mean "reward"?'),
        (["check", "env", "pizza_re"], 'check: there is no env "pizza_re". Did you mean "pizza_rec"?'),
        (["run", "--env=x"], 'unknown flag "--env=x". Options have no dashes: env=x'),
        (["run", "--env"], 'unknown flag "--env". Options have no dashes: env=NAME'),
        (["run", "-m", "seed=0,x"], 'seed=x: expected an integer, got "x"'),
        (
            ["run", "-m", "seed=0,1", "out=x"],
            "out=x: 2 runs cannot share a folder; leave it out or write out='NAME-${seed}'",
        ),
        (["run", "-m", "hydra/launcher=rya"], "hydra: In 'hydra/config': Could not find 'hydra/launcher/rya'"),
        (["run", "-m", "seed"], 'malformed override "seed": expected key=value.'),
    ],
)
def test_command_errors(here, capsys, runs, argv, said):
    code, out, err = outcome(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(said)
    assert err.count("\n") == 1
    assert runs == []


def test_exit_codes(here, capsys, runs):
    assert outcome(capsys, "run", "seed=1")[0] == 0
    assert outcome(capsys, "run", "seed=7") == (2, "", "data.jsonl:3: seven is bad\n")
    code, _, err = outcome(capsys, "run", "seed=8")
    assert code == 1
    assert "ValueError: our own" in err
    assert err.splitlines()[-1].startswith("This is a fault in instructrec-rl, not in your input")
    assert outcome(capsys, "run", "seed=9") == (130, "", "interrupted\n")
    assert [config.seed for config in runs] == [1]


def test_sweep_runs_every_combination_and_writes_nothing(here, capsys, runs):
    code, out, _ = outcome(capsys, "run", "-m", "seed=0,1", "algo.interactions=5,6", "reward=rouge")
    assert code == 0
    assert [(c.seed, c.algo.interactions) for c in runs] == [(0, 5), (0, 6), (1, 5), (1, 6)]
    assert {c.reward.name for c in runs} == {"rouge"}
    assert out.splitlines()[1] == "run 2 (seed=0 algo.interactions=6 reward=rouge)"
    assert list(here.iterdir()) == []


ABOUT = "name: {}\nversion: 1\nformat: catalog\naction: choose\nmetrics: [rouge]\n"


def test_sweep_takes_the_defaults_of_each_environment(here, capsys, runs):
    (here / "envs" / "mine").mkdir(parents=True)
    (here / "envs" / "mine" / "env.yaml").write_text(ABOUT.format("mine") + "algo: random\nreward: rouge\n")
    assert outcome(capsys, "run", "-m", "env=pizza_rec,mine", "out='x/${env.name}'")[0] == 0
    assert [(c.algo.name, c.reward.name, c.out) for c in runs] == [
        ("dqn", "constraints", "x/pizza_rec"),
        ("random", "rouge", "x/mine"),
    ]


def test_a_failed_run_does_not_stop_a_sweep(here, capsys, runs):
    code, _, err = outcome(capsys, "run", "-m", "seed=7,8,1")
    assert code == 1
    assert [config.seed for config in runs] == [1]
    assert "run 1 (seed=7): data.jsonl:3: seven is bad\n" in err
    assert "run 2 (seed=8): a fault in instructrec-rl\n" in err
    assert "ValueError: our own" in err
    assert outcome(capsys, "run", "-m", "seed=7,1")[0] == 2
    assert outcome(capsys, "run", "-m", "seed=1,9")[0] == 130


def test_list_is_plain_off_a_terminal_and_marks_broken_files(here, capsys):
    for name, text in {
        "envs/bad/env.yaml": "a: b: c\n",
        "envs/good/env.yaml": ABOUT.format("good") + "description: fine\n",
        "rewards/bad.py": "def f(:\n",
        "rewards/good.py": '"""Does good.\n\nMore.\n"""\n1 / 0\n',
        "experiments/quick.yaml": "seed: 1\n",
    }.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(text)
    code, out, err = outcome(capsys, "list", "envs")
    lines = dict(line.split("\t") for line in out.splitlines())
    assert (code, err, lines["good"]) == (0, "", "fine")
    assert lines["bad"] == f"broken: {here}/envs/bad/env.yaml:1: broken YAML: mapping values are not allowed here"
    assert "pizza_rec" in lines
    lines = dict(line.split("\t") for line in outcome(capsys, "list", "rewards")[1].splitlines())
    assert lines["good"] == "Does good."
    assert lines["bad"].startswith(f"broken: {here}/rewards/bad.py:1: not valid Python: ")
    assert "quick\tseed=1\n" in outcome(capsys, "list", "experiments")[1]
    assert "dqn\t" in outcome(capsys, "list", "algos")[1]
    assert {f"{kind}:" for kind in listing.KINDS} <= set(outcome(capsys, "list")[1].splitlines())


def test_list_draws_a_table_on_a_terminal(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    out = outcome(capsys, "list", "algos")[1]
    assert "description" in out
    assert "\t" not in out


def test_new_env_works_and_is_never_overwritten(here, capsys):
    code, out, _ = outcome(capsys, "new", "env", "mine")
    assert code == 0
    assert out.endswith("next: python -m instructrec_rl.run env=mine\n")
    assert sorted(p.name for p in (here / "envs/mine").iterdir()) == [
        "README.md",
        "env.yaml",
        "instructions.jsonl",
        "items.jsonl",
    ]
    records = [json.loads(line) for line in (here / "envs/mine/instructions.jsonl").read_text().splitlines()]
    assert len(records) >= 10
    assert all(0 < len(record["best"]) < len(new.TEAS) for record in records)
    assert outcome(capsys, "check", "env", "mine")[:2] == (
        0,
        "env mine: ok, 5 items, 15 instructions (train 11, validation 2, test 2); reward constraints\n",
    )
    assert outcome(capsys, "new", "env", "mine")[::2] == (
        2,
        "envs/mine: exists already; choose another name, or remove it first\n",
    )


def test_new_reward_works_and_is_never_overwritten(here, capsys):
    outcome(capsys, "new", "env", "tea")
    code, out, _ = outcome(capsys, "new", "reward", "mine")
    assert (code, out) == (0, "wrote rewards/mine.py\nnext: python -m instructrec_rl.run reward=mine\n")
    score = instructrec_rl.load_reward("mine").score
    assert score(["q"] * 3, ["A b", "a c", "d"], [["x", "a b"]] * 3).tolist() == [1.0, 0.5, 0.0]
    assert instructrec_rl.load_reward("mine", fold_case=False).score(["q"], ["A b"], [["a b"]]).tolist() == [0.5]
    code, out, err = outcome(capsys, "check", "reward", "mine")
    assert (code, out, err) == (0, "reward mine: ok on tea: a right response scores 1.000, an empty one 0.000\n", "")
    assert outcome(capsys, "new", "reward", "mine")[0] == 2


def test_check_reports_what_is_broken_and_goes_on(here, capsys):
    outcome(capsys, "new", "env", "tea")
    outcome(capsys, "new", "env", "torn")
    outcome(capsys, "new", "reward", "fine")
    items = here / "envs/torn/instructions.jsonl"
    items.write_text(items.read_text() + "{broken\n")
    out_of_range = here / "rewards" / "large.py"
    out_of_range.write_text("import numpy as np\n\ndef score(batch, config):\n    return np.full(len(batch), 2.0)\n")
    code, out, err = outcome(capsys, "check", "env")
    assert code == 2
    assert "env tea: ok" in out
    assert f"{items.relative_to(here)}:16: broken JSON" in err
    code, _, err = outcome(capsys, "check", "reward", "large", "--env", "tea")
    assert code == 2
    assert "the score 2.0 is not in [0, 1]" in err
    code, _, err = outcome(capsys, "check", "reward", "fine", "--env", "te")
    assert code == 2
    assert 'Did you mean "tea"?' in err


def test_doctor_says_what_a_bug_report_needs(here, capsys):
    code, out, _ = outcome(capsys, "doctor")
    assert code == 0
    told = dict(line.split(": ", 1) for line in out.splitlines())
    assert {
        "python",
        "torch",
        "device",
        "threads",
        "algo=ppo learns on",
        "algo.vllm=true",
        "policy=smollm2",
        "encoder minilm",
        "encoder runs in",
        "encoder cache",
        "looked in",
    } <= set(told)
    assert "sha256 right" in told["encoder minilm"]
