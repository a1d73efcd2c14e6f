"""One study, several workers, real servers on loopback (PostgreSQL, Optuna's proxy): killed, sleeping, late workers."""

import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
import tune_worker

from fwdonly import UsageError, tune

optuna = pytest.importorskip("optuna")

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SECRET = "s3cret"


class PostgreSQL:
    """A server on a free port of loopback, in a folder of its own; as root it runs as somebody else, since it must."""

    def __init__(self):
        self.psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed: 'fwdonly[tune-postgres]'")
        self.initdb, self.postgres = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="fwdonly-postgres-"))
        self.port, self.databases = free_port(), 0
        self.how = {"cwd": self.folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if os.geteuid() == 0:
            import pwd

            names = {user.pw_name for user in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.how |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        made = [self.initdb, "-D", self.folder / "data", "-U", "fwdonly", "-A", "trust", "--no-sync", "--locale=C"]
        made += ["-E", "UTF8"]  # psycopg returns bytes from a database without an encoding
        subprocess.run(made, check=True, **self.how)
        self.start()

    def start(self):
        where = ["-D", self.folder / "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder]
        self.process = subprocess.Popen([self.postgres, *where, "-F"], **self.how)
        until(lambda: self.answers() or self.process.poll() is not None)
        assert self.process.poll() is None, "PostgreSQL did not start"

    def answers(self):
        with contextlib.suppress(self.psycopg.OperationalError):
            self.psycopg.connect(self.url("postgres")).close()
            return True

    def stop(self, how=signal.SIGQUIT):  # at once, connections or not
        self.process.send_signal(how)
        self.process.wait()

    def url(self, database):
        return f"postgresql://fwdonly:{SECRET}@127.0.0.1:{self.port}/{database}"

    def database(self):
        """The URL of an empty one."""
        self.databases += 1
        with self.psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE d{self.databases}")
        return self.url(f"d{self.databases}")

    def close(self):
        self.stop()
        shutil.rmtree(self.folder)


def programs():
    """PostgreSQL's, in the PATH or where distributions hide them."""
    places = [os.environ.get("PATH", "")]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found = subprocess.run(["pg_config", "--bindir"], check=True, text=True, stdout=subprocess.PIPE)
        places.append(found.stdout.strip())
    places += map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    found = [shutil.which(name, path=os.pathsep.join(places)) for name in ("initdb", "postgres")]
    if None in found:
        pytest.skip("there is no PostgreSQL server on this machine (initdb, postgres)")
    return found


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def postgres():
    server = PostgreSQL()
    yield server
    server.close()


@contextlib.contextmanager
def proxy(url):
    """Optuna's proxy in front of a database, started as a user would."""
    pytest.importorskip("grpc", reason="grpcio is not installed: 'fwdonly[tune-grpc]'")
    port = free_port()
    command = [sys.executable, EXPERIMENTS / "serve_study.py", "--storage", url, "--port", str(port)]
    server = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield f"grpc://localhost:{port}"
    finally:
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=30)[0]
        assert server.returncode == 0 and "stopped" in said and "Traceback" not in said and SECRET not in said, said


@pytest.fixture(params=["journal", "postgres", "grpc"])
def shared(request, tmp_path):
    """Where workers of several processes meet: each kind of storage there is."""
    with contextlib.ExitStack() as stack:
        if request.param == "journal":
            yield str(tmp_path / "study.journal")
        else:
            url = request.getfixturevalue("postgres").database()
            yield stack.enter_context(proxy(url)) if request.param == "grpc" else url


@contextlib.contextmanager
def opened(where):
    """A storage that leaves no connection behind, about which the drivers would warn."""
    storage = tune.open_storage(where)
    try:
        yield storage
    finally:
        if isinstance(storage, optuna.storages.RDBStorage):
            storage.engine.dispose()
        elif not isinstance(storage, optuna.storages.JournalStorage):
            storage.close()


def trials(where, name="s"):
    """What the storage has of a study, whose table may not be there yet."""
    with opened(where) as storage:
        try:
            return optuna.load_study(study_name=name, storage=storage).get_trials()
        except KeyError:
            return []


def states(found):
    return collections.Counter(trial.state.name for trial in found)


@pytest.fixture
def worker():
    """Start one: ``worker(storage, log, **settings) -> process``; with ``stop`` it has come to its stop."""
    started = []

    def start(where, log, **more):
        settings = {"storage": where, "log": str(log), "trials": 6, "heartbeat": 0.2, "grace": 60.0} | more
        command = [sys.executable, tune_worker.__file__, json.dumps(settings)]
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
        started.append(process)
        if "stop" in more:
            until(lambda: os.path.exists(more["stop"]) or process.poll() is not None)
            assert process.poll() is None, "the worker ended before its stop"
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def ends(process):
    """What a worker that ends well prints: the trials that were refused."""
    out = process.communicate(timeout=120)[0]
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def trained(log, what="trained"):
    """How often each learning rate was."""
    return collections.Counter(rate for said, _, rate in map(json.loads, log.read_text().splitlines()) if said == what)


def check(found, log, budget, workers):
    """Nothing is lost, and nothing twice."""
    assert [trial.number for trial in found] == list(range(len(found)))
    complete = [trial for trial in found if trial.state.name == "COMPLETE"]
    assert budget <= len(complete) <= budget + 2 * (workers - 1)
    assert len({tuple(trial.params.values()) for trial in complete}) == len(complete)
    times = trained(log)
    assert [times[trial.params["learning_rate"]] for trial in complete] == [1] * len(complete)
    assert all(len(trial.user_attrs["per_seed"]) == 1 for trial in complete)


def test_three_workers_that_start_together_lose_and_repeat_nothing(postgres, worker, tmp_path):
    url, log = postgres.database(), tmp_path / "log"
    workers = [worker(url, log, trials=16) for _ in range(3)]
    assert [ends(process) for process in workers] == [[], [], []]
    found = trials(url)
    check(found, log, 16, 3)
    assert states(found).keys() == {"COMPLETE"}
    assert found[0].params == {"learning_rate": 0.01, "weight_decay": 1e-4}  # the first guess, once
    told = {json.loads(line)[1] for line in log.read_text().splitlines()}
    assert len(told) == 3, "the scenario needs all three to have worked"
    # Control: what was trained twice, or told once and trained by nobody, does not pass.
    again = log.read_text()
    for other in (again + again.splitlines()[-1] + "\n", again.replace('"trained"', '"begun"', 1)):
        log.write_text(other)
        with pytest.raises(AssertionError):
            check(found, log, 16, 3)


def test_what_a_killed_worker_left_is_tried_again_once(shared, worker, tmp_path):
    log, stop = tmp_path / "log", tmp_path / "stop"
    lost = worker(shared, log, stop=str(stop), go=str(tmp_path / "never"), host="another machine")
    lost.send_signal(signal.SIGKILL)
    lost.communicate()
    left = trials(shared)
    assert states(left) == {"RUNNING": 2} and all("heartbeat" in trial.user_attrs for trial in left)
    with opened(shared) as storage:
        # Control: who does not ask for signs of life leaves them, and the budget is never reached.
        def enough(found):
            return found.done == 4 and found.elsewhere == 2

        study = tune_worker.search(storage, trials=6, heartbeat=0.2, grace=1e9, callback=enough)
        assert states(study.get_trials()) == {"RUNNING": 2, "COMPLETE": 4}
        began = time.monotonic()
        study = tune_worker.search(storage, trials=6, heartbeat=0.2, grace=1.0)
        assert 1.0 < time.monotonic() - began < 30
        found = study.get_trials()
    assert states(found) == {"FAIL": 2, "COMPLETE": 6}
    again = {trial.user_attrs["again"]: trial.params for trial in found if "again" in trial.user_attrs}
    assert again == {trial.number: trial.params for trial in left}
    assert sorted(trained(log, "begun")) == sorted(trial.params["learning_rate"] for trial in left)


def test_a_worker_that_slept_is_refused_and_goes_on(postgres, worker, tmp_path):
    url, log, stop, go = postgres.database(), tmp_path / "log", tmp_path / "stop", tmp_path / "go"
    sleeper = worker(url, log, stop=str(stop), go=str(go), trials=6)
    sleeper.send_signal(signal.SIGSTOP)
    with opened(url) as storage:
        tune_worker.search(storage, trials=4, heartbeat=0.2, grace=1.0)
    sleeper.send_signal(signal.SIGCONT)
    go.touch()
    assert ends(sleeper) == [0, 1]
    found = trials(url)
    assert [trial.state.name for trial in found[:2]] == ["FAIL", "FAIL"]
    assert states(found) == {"FAIL": 2, "COMPLETE": 6}  # it went on: the other one ended at four
    assert all("per_seed" not in trial.user_attrs for trial in found[:2])


def test_of_many_that_notice_a_death_one_asks_for_the_repetition(postgres, monkeypatch):
    def noticed():
        with opened(postgres.database()) as storage:
            study = optuna.create_study(study_name="s", storage=storage)
            left = tune.search.ask(optuna, study, "s", tune_worker.SPACE, 3, 3)
            gate = threading.Barrier(4)

            def retires():
                own = optuna.load_study(study_name="s", storage=storage)
                gate.wait()
                tune.workers.Others(optuna, own, set(tune_worker.SPACE), 0.0).retire()

            threads = [threading.Thread(target=retires) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            found = study.get_trials()
            assert states(found[:3]) == {"FAIL": 3} and len(left) == 3
            return len(found) - 3

    assert noticed() == 3
    usual = tune.workers.tell
    monkeypatch.setattr(tune.workers, "tell", lambda *all, **more: [usual(*all, **more)] != [])
    assert noticed() > 3  # control: each that tried takes it to be its own


def test_workers_that_ask_at_the_same_moment_are_proposed_different_settings(tmp_path):
    storage = tune.open_storage(tmp_path / "study.journal")
    studies = [optuna.create_study(study_name="s", storage=storage, load_if_exists=True) for _ in range(2)]
    rates = [
        [trial.params["learning_rate"] for trial in tune.search.ask(optuna, study, "s", tune_worker.SPACE, 3, 3)]
        for study in studies
    ]
    assert len({*rates[0], *rates[1]}) == 6
    # Control: with nothing told yet, samplers of one seed propose the same.
    plain = []
    for _ in range(2):
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=1))
        plain.append(study.ask().suggest_float("learning_rate", 1e-4, 1.0, log=True))
    assert plain[0] == plain[1]


def test_trials_of_another_thread_of_this_process_are_alive():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    assert tune.workers.is_alive(os.getpid(), thread.ident)
    ended.set()
    thread.join()
    is_alive, this = tune.workers.is_alive, os.getpid()
    assert not is_alive(this, thread.ident) and not is_alive(this, threading.get_ident())
    assert not is_alive(this) and is_alive(os.getppid())


@pytest.mark.parametrize("kind", ["postgresql", "grpc"])
@pytest.mark.parametrize("answer", ["none", "refused"])
def test_what_cannot_be_reached_is_an_error_within_the_stated_time(monkeypatch, kind, answer):
    pytest.importorskip({"postgresql": "psycopg", "grpc": "grpc"}[kind])
    assert tune.storage.CONNECT == 10
    monkeypatch.setattr(tune.storage, "CONNECT", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never says a word
        port = silent.getsockname()[1] if answer == "none" else free_port()
        url = f"{kind}://joe:{SECRET}@127.0.0.1:{port}" + ("/name" if kind == "postgresql" else "")
        began = time.monotonic()
        with pytest.raises(UsageError, match=r"cannot open the storage|nothing answers") as caught:
            tune.open_storage(url)
        assert time.monotonic() - began < 4
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value) and str(port) in str(caught.value)


def test_a_database_that_goes_down_ends_the_search_in_one_line_and_keeps_what_was_told(tmp_path):
    server = PostgreSQL()
    try:
        url = server.database()
        tiny = ["--dataset", "digits", "--net", "mlp:8", "--epochs", "1", "--seeds", "1", "--study", "s"]
        more = ["--storage", url, "--output-dir", tmp_path / "out"]
        command = [sys.executable, EXPERIMENTS / "tune.py", "mf", *tiny, *more, "--parallel", "2", "--trials"]
        search = subprocess.Popen([*command, "999"], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert any(line.startswith("4/999 trials") for line in iter(search.stdout.readline, ""))
        server.stop()
        _, err = search.communicate(timeout=120)
        assert search.returncode == 2 and err.count("\n") == 1, err
        assert err.startswith("error: lost the storage postgresql://fwdonly:***@") and SECRET not in err
        reasons = (
            "server closed",
            "terminating connection",
            "Connection refused",
            "Connection reset",
            "shutting down",
            "starting up",
        )
        assert any(reason in err for reason in reasons), err
        server.start()
        told = states(trials(url))["COMPLETE"] + states(trials(url))["PRUNED"]
        assert told >= 4
        ended = subprocess.run([*command, str(told + 1)], check=True, text=True, stdout=subprocess.PIPE).stdout
        assert f"best of {told + 1} trials" in ended and "***" in ended
        assert not any(SECRET in file.read_text(errors="replace") for file in (tmp_path / "out").iterdir())
        assert SECRET not in ended
    finally:
        server.close()


def test_a_proxy_or_the_database_behind_it_that_goes_down_is_one_line(tmp_path):
    database = tmp_path / "study.db"
    with contextlib.ExitStack() as closing:
        with proxy(f"sqlite:///{database}") as url:
            study = optuna.create_study(study_name="s", storage=closing.enter_context(opened(url)))
            database.unlink()
            with pytest.raises(UsageError, match=r"lost the storage grpc://localhost:\d+ \(.*commit") as behind:
                ask(study, url)
        with pytest.raises(UsageError, match=r"lost the storage grpc://localhost:\d+ \(.*refused") as itself:
            ask(study, url)
    assert "\n" not in str(behind.value) and "\n" not in str(itself.value)


def ask(study, url):
    with tune.reachable(url):
        study.ask()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://joe:secret@host/db", "postgresql://joe:***@host/db"),
        ("postgresql+psycopg://joe:se@cr:et@host:1/db?x=1", "postgresql+psycopg://joe:***@host:1/db?x=1"),
        ("postgresql://host/db?user=joe&password=secret&x=1", "postgresql://host/db?user=joe&password=***&x=1"),
        ("no answer from grpc://host:1 (a:b@c)", "no answer from grpc://host:1 (a:b@c)"),
        ("/a/folder/study.journal", "/a/folder/study.journal"),
    ],
)
def test_passwords_are_masked_and_nothing_else(text, shown):
    assert tune.masked(text) == shown


def test_no_fragment_of_a_password_is_left_where_a_driver_takes_it_for_the_host():
    pytest.importorskip("psycopg")
    with pytest.raises(UsageError) as caught:
        tune.open_storage("postgresql://joe:first@second@127.0.0.1:1/db")
    assert "first" not in str(caught.value) and "second" not in str(caught.value)


@pytest.mark.parametrize("storage", ["study.journal", "grpc://localhost:1"])
def test_the_proxy_serves_databases_only(script, storage):
    pytest.importorskip("grpc")
    code, _, err = script("serve_study", "--storage", storage)
    assert code == 2 and "needs the URL of a database" in err


def test_a_port_that_is_taken_is_refused_in_one_line(script, tmp_path):
    pytest.importorskip("grpc")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = script(
            "serve_study", "--storage", f"sqlite:///{tmp_path}/a.db", "--host", "127.0.0.1", "--port", port
        )
    assert code == 2 and f"cannot listen on 127.0.0.1:{port}" in err and err.count("\n") == 1


def test_without_grpcio_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(UsageError, match=r"fwdonly\[tune-grpc\]"):
        tune.open_storage("grpc://localhost:13000")
