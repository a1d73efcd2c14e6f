"""The notebook of the documentation runs from its first cell to its last, in a kernel of its own."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorials" / "first-comparison.ipynb"


def run(cells):
    """Execute cells of a notebook in a fresh kernel; all that they print."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.get("text", "") for output in outputs if output["output_type"] == "stream")


@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_and_ends_with_a_verdict():
    nbformat = pytest.importorskip("nbformat")
    printed = run(nbformat.read(NOTEBOOK, as_version=4).cells)
    assert "layer 3:" in printed and "accuracy" in printed.splitlines()[-1]


@pytest.mark.filterwarnings("default")
def test_a_cell_that_fails_is_seen():
    """The control of the test above."""
    nbformat = pytest.importorskip("nbformat")
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run([nbformat.v4.new_code_cell("1 / 0")])
