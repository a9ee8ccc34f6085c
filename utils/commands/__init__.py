"""The commands: the only place that prints.

Imported before torch by every script, so this is where torch is told how to live with the machine: its
threads sleep while they wait, since spinning makes each step two to ten times slower as soon as anything else
(the processes that load images, for one) needs a core; and its tensors lie in large pages, since fetching
small ones for every new activation takes up to a third of the time of a batch. Linux alone knows the latter.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
