"""Generated vowels in the form of the set that physical local learning was published on."""

import numpy as np

from .dataset import Dataset
from .splits import hold_out, random_state

NAMES = ("ae", "ah", "aw", "er", "ih", "iy", "uw")
MEANS = np.array(
    [
        [669, 2349, 2972],
        [936, 1551, 2815],
        [781, 1136, 2824],
        [523, 1588, 1929],
        [483, 2365, 3053],
        [437, 2761, 3372],
        [459, 1105, 2735],
    ]
)
"""F1, F2, F3 in Hz of these vowels, of the size that women's have; no published table."""
SPEAKERS, ZEROS, TEST_ROWS = 37, 8, 52
VOICE, FORMANT, MOMENT = 0.06, 0.05, 0.03
"""SD of the logarithm of a frequency: of a speaker's, of one formant of a vowel, and of one moment in it."""


def vowels(seed: int = 0) -> Dataset:
    """7 vowels of 37 speakers, 36 of the last: 258 rows of 20 numbers, 206 to train and 52 to test.

    A row has 8 zeros in front, where a rule may write a label, and F1, F2, F3 at the steady state and at 20 %, 50 %
    and 80 % of the vowel. Frequencies are log-normal around `MEANS`, with a factor per speaker, per formant and per
    moment. They are drawn: no number of a person is among them, and no published accuracy is one on them.

    As in the official code of PhyLL (GitHub MomeniAli/PhyLL) every column is standardised over all rows and shifted, so
    that the least number is 0; use it with ``normalise="none"``.

    Args:
        seed: of the rows and of the split, which keeps classes in proportion.

    References:
        Hillenbrand, Getty, Clark, Wheeler, J. Acoust. Soc. Am. 97, 1995, for the form of such data.
    """
    random = random_state(seed)
    voices = random.normal(0, VOICE, SPEAKERS)
    y = np.repeat(np.arange(len(NAMES)), SPEAKERS)[:-1]
    speaker = np.tile(np.arange(SPEAKERS), len(NAMES))[:-1]
    log = np.log(MEANS)[y] + voices[speaker][:, None] + random.normal(0, FORMANT, (len(y), 3))
    moments = log[:, None] + random.normal(0, MOMENT, (len(y), 4, 3))
    hertz = np.rint(np.exp(moments)).reshape(len(y), 12)
    columns = (hertz - hertz.mean(0)) / hertz.std(0)
    x = np.concatenate([np.zeros((len(y), ZEROS)), columns - columns.min()], axis=1).astype(np.float32)
    train, test = hold_out(y, TEST_ROWS, seed)
    parts = x[train], y[train], x[test], y[test]
    return Dataset("vowels", f"generated, seed {seed}", *parts, len(NAMES), class_names=NAMES)
