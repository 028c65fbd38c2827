"""tblite is slow on more threads than idle cores, and reads their number once, when it is loaded."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
