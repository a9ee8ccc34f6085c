"""An option that would do nothing beside the others is refused, with what it belongs to."""

import pytest

from tests.test_scripts import FILES, Fail, fail, project

__all__ = ["fail", "project"]  # fixtures


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (("--tune-epochs", "2"), "--tune-epochs: nothing is fine-tuned in one go; add --iterative K"),
        (("--tune_epochs=2",), "--tune-epochs: nothing is fine-tuned in one go"),
        (("--runtime", "torch"), "--runtime: serves --max-ms and --align auto"),
        (("--max-macs", "50%", "--runtime", "torch"), "--runtime: serves --max-ms and --align auto"),
        (("--max-macs", "50%", "--global-percent", "0.5"), "--global_percent: a budget decides"),
        (("--classic", "--keep-sections", "3"), "--classic: has no --keep-sections"),
        (("--classic", "--fold", "borders"), "--classic: has no --fold"),
    ],
)
def test_an_idle_option_is_refused(fail: Fail, words, fact):
    assert fact in fail("slim_prune.py", *FILES, *words)


def test_more_blocks_than_there_are_is_answered_with_what_to_do(fail: Fail):
    message = fail("layer_prune.py", *FILES, "--shortcuts", "9")
    assert message.endswith("has 3 that can be removed; ask for fewer, or prune channels")
