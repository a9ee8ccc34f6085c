"""Files that version 0.1.0 wrote (commit 2462526), and write.py, which wrote them."""
