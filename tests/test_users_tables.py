"""Tables as people have them: two of scikit-learn's, written as CSV and given to a command."""

import json

import pytest

from fwdonly import data


@pytest.mark.parametrize("name", ["breast_cancer", "digits"])
def test_mf_and_bp_are_as_good_as_logistic_regression_on_a_table(name, command, tmp_path):
    """On the same training and test rows, less two points."""
    from sklearn import datasets
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    frame.to_csv(tmp_path / "table.csv", index=False)
    source = f"csv:{tmp_path / 'table.csv'}#target=target"
    table = data.load(source)
    scaler = StandardScaler().fit(table.x_train)
    rival = LogisticRegression(max_iter=2000).fit(scaler.transform(table.x_train), table.y_train)
    wanted = rival.score(scaler.transform(table.x_test), table.y_test) - 0.02
    words = ["train", "mf", "--against", "bp", "--dataset", source, "--net", "mlp:64", "--batch-size", "32"]
    words += ["--epochs", "30", "--learning-rate", "1e-3", "--seeds", "2", "--quiet", "--save-models", "none"]
    code, _, err = command(*words, "--output-dir", tmp_path / "run")
    assert code == 0, err
    for summary in json.loads((tmp_path / "run" / "summary.json").read_text())["rules"]:
        assert min(run["test_accuracy"] for run in summary["runs"]) >= wanted, summary["rule"]
