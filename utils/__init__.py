"""The project's package.

Invariant: whoever imports anything below it gets an OpenCV that refuses, by their headers alone, images of
more pixels than the limit here; OpenCV reads the setting when it is loaded.
"""

import os

# 134 million: 11585 x 11585, 400 MB decoded; more is a slip or an attack, unless the user raises it
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))
