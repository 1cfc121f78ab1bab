"""What comes in from outside: the command line, a machine's limits, odd environments, strangers' agents."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import mcmcpo_langevin_continuous as langevin
import sac_continuous as sac
import sac_hpo_continuous as hpo
import sac_hpo_pixels as px
from runtime import arguments, flags, machine
from runtime.arguments import parse
from runtime.run import launch

import pytest

ROOT = Path(sac.__file__).parent
FLAGS = "--env-id Drift-v0 --total-timesteps 60 --learning-starts 40 --batch-size 16 --eval-frequency 30"
FLAGS = f"{FLAGS} --eval-episodes 1 --no-cuda --no-compile".split()


def refused(capfd, argv, *messages, script=sac):
    """One line, code 2, nothing written."""
    before = set(Path().rglob("*"))
    assert launch(script, argv) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and all(message in err for message in messages), err
    assert set(Path().rglob("*")) == before


# ------------------------------------------------------------------------------------------------- the command line
@pytest.mark.parametrize("value", ["arm--env-id=Ant-v4", "arm--resume=3", "--resume=3", "x --seed 9", "--help"])
def test_a_value_that_looks_like_a_flag_is_a_value(value):
    args, source = parse(hpo, ["--exp-name=" + value, "--env-id", "Hopper-v4"])
    assert args == hpo.Args(exp_name=value)
    assert {name for name, origin in source.items() if origin == "command line"} == {"exp_name", "env_id"}


def test_numbers_and_switches_as_people_write_them():
    written = "--total-timesteps 1e6 --buffer-size 1_000 --gamma 1 --autotune True --compile=false --no-cuda".split()
    args, _ = parse(sac, written)
    assert (args.total_timesteps, args.buffer_size, args.gamma) == (10**6, 1000, 1.0)
    assert type(args.total_timesteps) is int and type(args.gamma) is float
    assert (args.autotune, args.compile, args.cuda) == (True, False, False)
    assert parse(sac, ["--autotune", "--seed", "3"])[0].autotune and parse(sac, ["--seed", "4294967290"])[0].seed
    assert parse(sac, ["--seed", "1", "--seed", "2"])[0].seed == 2
    assert parse(sac, ["--exp-name", "None"])[0].exp_name is None


@pytest.mark.parametrize(("written", "said"), [
    ("--total-timesteps 1.5", "--total-timesteps '1.5' is no whole number"),
    ("--total-timesteps 1e400", "no whole number"), ("--total-timesteps nan", "no whole number"),
    ("--gamma much", "--gamma 'much' is no number"), ("--autotune maybe", "--autotune 'maybe' is neither True nor"),
    ("--products fast", "--products 'fast' is none of auto, default, onednn"), ("stray", "stray is no flag"),
    ("--sed 1", "--sed is no flag of this script (did you mean --seed?)"), ("--leapfrog-steps 2", "is no flag"),
    ("--exp-name " + 300 * "x", "--exp-name has 300 characters"), ("--env-id --seed 1", "--env-id expected one"),
])  # fmt: skip
def test_what_cannot_be_read(written, said, capfd):
    refused(capfd, written.split(), said)


@pytest.mark.parametrize("script", [sac, hpo, px, langevin])
def test_help_has_the_method_first_and_every_range(script, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert_stops = pytest.raises(SystemExit)
    with assert_stops as stop:
        parse(script, ["--seed", "3", "--help"])
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w+):$", text, re.M)
    assert stop.value.code == 0 and titles == ["method", "run", "logging", "machine"]
    assert max(map(len, text.splitlines())) <= 100
    parts = dict(zip(titles, re.split(r"^\w+:$", text, flags=re.M)[1:]))
    own = {field.name for field in dataclasses.fields(script.Args)} - {f.name for f in dataclasses.fields(sac.RunArgs)}
    assert set(re.findall(r"^  --([\w-]+)", parts["method"], re.M)) == {name.replace("_", "-") for name in own}
    assert set(re.findall(r"^  --([\w-]+)", text, re.M)) == {n.replace("_", "-") for n in vars(script.Args())}
    for name, span in (arguments.LIMITS | script.LIMITS).items():
        entry = re.split(r"\n  -", text.split(f"\n  --{name.replace('_', '-')} ")[1])[0]
        assert f"[{' to '.join(map(flags.shown, span))}]" in " ".join(entry.split()), (name, entry)
    assert all(flags.comments(script.Args).get(name) for name in vars(script.Args()))  # a line for each


# ------------------------------------------------------------------------------------------------------ the machine
@pytest.mark.parametrize(("group", "files", "limit"), [
    ("0::/jobs/mine\n", {"jobs/memory.max": "3000", "jobs/mine/memory.max": "5000"}, 3000),
    ("0::/\n", {"memory.max": "4000"}, 4000),  # inside a container
    ("0::/jobs\n", {"jobs/memory.max": "max"}, None),
    ("5:cpu:/a\n4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000", "cpu/a/memory.max": "1"}, 2000),
])  # fmt: skip
def test_memory_is_what_the_control_group_allows(tmp_path, group, files, limit):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert machine.memory(tmp_path) == (limit or machine.memory(tmp_path / "nowhere"))


@pytest.mark.parametrize(("value", "count"), [("", 7), ("2,1", 2), (" 3", 3), ("many", 7), ("0", 1), (None, 7)])
def test_threads_by_any_environment(monkeypatch, value, count):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert machine.threads(7) == count


def test_windows_is_refused_in_a_line():
    code = "import sys; sys.platform = 'win32'; sys.argv = ['x.py']; import runtime"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("x: Windows") and done.stderr.count("\n") == 1
