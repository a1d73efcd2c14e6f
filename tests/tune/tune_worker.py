"""A worker of a study, as a process of its own: python tune_worker.py '{"storage": ..., ...}' (`test_tune_workers.py`).

It appends what it trains to the file ``log``. With ``stop`` it hangs within its first round, until the file ``go`` is
there; with ``host`` it takes itself to be on that machine.
"""

import json
import os
import sys
import time

import numpy as np
import optax

from fwdonly import Plan, data, mf, nets, tune

SPACE = {"learning_rate": tune.Range(1e-4, 1.0), "weight_decay": tune.Range(1e-6, 1e-3)}


def rule(learning_rate, weight_decay=0.0):
    return mf.rule(nets.mlp([4]), optax.adamw(learning_rate, weight_decay=weight_decay), num_classes=2)


def search(storage, *, trials, name="s", **more):
    """Two trials of one seed at a time, on sixteen images."""
    x = np.random.default_rng(0).integers(0, 255, (40, 2, 2, 1)).astype(np.uint8)
    y = np.tile(np.arange(2, dtype=np.int32), 20)
    tiny = data.Dataset("tiny", "made here", x, y, x[:2], y[:2], 2)
    plan = Plan(epochs=1, batch_size=16, keep="last")
    split = np.arange(24), np.arange(24, 40)
    settings = {"trials": trials, "seeds": [5], "parallel": 2, "prune": False, "split": split, "name": name}
    return tune.tune(lambda: (rule, plan), SPACE, tiny, storage=storage, **settings | more)


def main(storage, log, trials, heartbeat, grace, stop=None, go=None, host=None):
    """Search, and print the trials whose results were refused."""
    plain = tune.search.sweep
    refused = []
    if host is not None:
        tune.workers.platform.node = lambda: host

    def write(what, hyper):
        with open(log, "a") as file:
            for rate in dict.fromkeys(hyper["learning_rate"]):
                file.write(json.dumps([what, os.getpid(), float(rate)]) + "\n")

    def logged(*arguments, hyper, **more):
        write("begun", hyper)
        result = plain(*arguments, hyper=hyper, **more)
        write("trained", hyper)
        return result

    def watch(_):
        if stop is not None and not os.path.exists(stop):
            open(stop, "w").close()
            while not os.path.exists(go):
                time.sleep(0.05)

    tune.search.sweep = logged
    first = {"learning_rate": 0.01, "weight_decay": 1e-4}
    search(
        storage,
        trials=trials,
        heartbeat=heartbeat,
        grace=grace,
        first=first,
        watch=watch,
        callback=lambda found: refused.extend(found.refused),
    )
    print(json.dumps(refused))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
