import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from utils.pruning.channels import decode_mask, encode_mask
from utils.pruning.report import SectionChange


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masks_survive_their_text(bits):
    mask = np.array(bits, bool)
    assert decode_mask(encode_mask(mask)).tolist() == bits


def test_a_removed_section_has_no_filters_left():
    change = SectionChange(4, np.zeros(9, bool), removed=True).to_json()
    assert change == {"index": 4, "filters_before": 9, "filters_after": 0, "removed": True, "kept": "9:0000"}
