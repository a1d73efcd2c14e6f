"""What a ``summary.json`` holds: the types that its writer and its readers agree on."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple


class _Kind(NamedTuple):
    """What a value of a result file has to be."""

    words: str
    fits: Callable[[Any], bool]


LARGEST = 1e100
"""No number of a result file reaches it: float32 ends at 3e38, and reports square, add and draw them."""


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def number_in(text: str) -> float:
    """A number of a CSV file; NaN where there is none.

    Raises:
        ValueError: no number, or one as large as `LARGEST`.
    """
    value = float(text or "nan")
    if math.isfinite(value) and not _finite(value):
        raise ValueError(f"{text} is beyond what a result can be")
    return value


def _quantity(value: Any) -> bool:
    if not isinstance(value, dict) or not {"value", "unit", "status"} <= value.keys():
        return False
    texts = isinstance(value["unit"], str) and isinstance(value["status"], str)
    return texts and (value["value"] is None or _finite(value["value"]))


_TEXT = _Kind("text", lambda value: isinstance(value, str))
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_LIST = _Kind("a list", lambda value: isinstance(value, list))
_TEXTS = _Kind("a list of sentences", lambda v: isinstance(v, list) and all(isinstance(part, str) for part in v))
_SWITCH = _Kind("true or false", lambda value: isinstance(value, bool))
_WHOLE = _Kind("an integer", lambda value: isinstance(value, int) and _finite(value))
_NUMBERS = _Kind("a list of finite numbers", lambda value: isinstance(value, list) and all(map(_finite, value)))
_NUMBER = _Kind("a finite number", _finite)
_POSITIVE = _Kind("a finite number above 0", lambda value: _finite(value) and value > 0)
_QUANTITY = _Kind("an object with value, unit and status", _quantity)


def check_summary(top: Mapping[str, Any], rules: Collection[str]) -> None:
    """Check the types of a ``summary.json`` whose configuration names these rules.

    Raises:
        TypeError: names the first thing that is of a wrong type.
        KeyError: names the first one that is missing.
        ValueError: the protocol's reference is none of the rules.
    """
    protocol = top.get("protocol")
    _are(top, "the summary", _TEXT, "title")
    _are(top, "the summary", _OBJECT, "data")
    _are(top, "the summary", _OBJECT, "protocol", "environment", needed=False)
    _are(top.get("environment") or {}, "the environment", _OBJECT, "packages", "switches", needed=False)
    _are(top["data"], "the data", _TEXT, "name", "digest")
    _are(top["data"], "the data", _WHOLE, "train", "validation", "test")
    _are(top["data"], "the data", _WHOLE, "classes", needed=False)
    for at, summary in enumerate(top["rules"], start=1):
        _is(summary, f"rule {at}", _OBJECT)
        where = f"rule {at}"
        _are(summary, where, _TEXT, "rule")
        _are(summary, where, _TEXT, "label", "network", needed=False)
        _are(summary, where, _NUMBER, "train_seconds", "compile_seconds")
        _are(summary, where, _NUMBER, "validation_seconds", needed=False)
        _are(summary, where, _SWITCH, "finished")
        _are(summary, where, _SWITCH, "tuned", needed=False)
        _are(summary, where, _LIST, "runs")
        _check_costs(summary, where)
        _are(summary, where, _LIST, "published", needed=False)
        for published in summary.get("published") or ():
            _is(published, f"a published number of {where}", _OBJECT)
            _are(published, f"a published number of {where}", _TEXT, "metric", "unit", "source")
            _are(published, f"a published number of {where}", _NUMBER, "value")
            _are(published, f"a published number of {where}", _NUMBER, "sd", "n", needed=False)
        for number, run in enumerate(summary["runs"], start=1):
            where = f"run {number} of rule {at}"
            _is(run, where, _OBJECT)
            _are(run, where, _WHOLE, "seed", "epochs", "kept_epoch")
            _are(run, where, _WHOLE, "target_epoch", needed=False)
            _are(run, where, _NUMBER, "train_seconds_share")
            numbers = (
                "val_accuracy",
                "test_accuracy",
                "test_balanced_accuracy",
                "train_seconds",
                "validation_seconds",
                "kept_seconds",
                "target_seconds",
            )
            _are(run, where, _NUMBER, *numbers, needed=False)
            _are(run, where, _SWITCH, "diverged")
            _are(run, where, _NUMBERS, "layer_accuracy", needed=False)
            _are(run, where, _TEXT, "machine", needed=False)
            _are(run, where, _OBJECT, "readouts", needed=False)
            for name, readout in (run.get("readouts") or {}).items():
                _is(readout, f"readout {name} of {where}", _OBJECT)
                _are(readout, f"readout {name} of {where}", _NUMBER, "test_accuracy", needed=False)
            _check_costs(run, where)
    if protocol is not None:
        _are(protocol, "the protocol", _TEXT, "name", "words", "reference", needed=False)
        _are(protocol, "the protocol", _POSITIVE, "target", needed=False)
        _are(protocol, "the protocol", _WHOLE, "passes", needed=False)
        _are(protocol, "the protocol", _POSITIVE, *{"margin_points", "margin_percent"} & protocol.keys())
        _are(protocol, "the protocol", _TEXTS, "notes", needed=False)
        _are(protocol, "the protocol", _OBJECT, "factorial", needed=False)
        reference = protocol.get("reference")
        if reference is not None and reference not in {*rules, *(summary["rule"] for summary in top["rules"])}:
            raise ValueError(f"the protocol's reference, {reference}, is no rule of it")


def _check_costs(of: Mapping[str, Any], where: str) -> None:
    """Check the costs of a rule or a run."""
    _are(of, where, _QUANTITY, "memory", "arithmetic", needed=False)
    _are(of, where, _NUMBER, "arithmetic_per_step", needed=False)
    _are(of, where, _OBJECT, "energy", needed=False)
    reading, where = of.get("energy"), f"the energy of {where}"
    if reading is None:
        return
    _are(reading, where, _QUANTITY, "energy", "net", "seconds")
    _are(reading, where, _QUANTITY, "mean_power", "co2e", needed=False)
    _are(reading["energy"], where, _TEXT, "source")
    _are(reading["energy"], where, _TEXT, "reason", needed=False)
    _are(reading["seconds"], where, _NUMBER, "value")
    _are(reading.get("co2e") or {}, where, _TEXT, "source", needed=False)
    _are(reading, where, _OBJECT, "opinions")
    _are(reading["opinions"], where, _QUANTITY, *reading["opinions"])
    _are(reading, where, _TEXTS, "notes")
    _are(reading, where, _OBJECT, "spans", needed=False)
    for name, span in (reading.get("spans") or {}).items():
        _is(span, f"span {name} of {where}", _OBJECT)
        _are(span, f"span {name} of {where}", _QUANTITY, "seconds", "energy")
    _are(reading, where, _LIST, "parts")
    for part in reading["parts"]:
        _is(part, f"a part of {where}", _OBJECT)
        _are(part, where, _TEXT, "name")
        _are(part, where, _QUANTITY, "idle")
        _are(part, where, _NUMBER, "utilisation", needed=False)
        _are(part, where, _TEXTS, "notes")
        _are(part, where, _OBJECT, "about")
        _are(part["about"], where, _NUMBER, "power_limit_w", needed=False)


def _are(of: Mapping[str, Any], where: str, kind: _Kind, *names: str, needed: bool = True) -> None:
    """Raises TypeError where an entry is of another kind, KeyError where one that is needed is missing."""
    for name in names:
        if needed or of.get(name) is not None:
            _is(of[name], f"{name} of {where}", kind)


def _is(value: Any, what: str, kind: _Kind) -> None:
    if not kind.fits(value):
        raise TypeError(f"{what} is not {kind.words}")
