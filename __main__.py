"""`python -m deltactl`: the command line, for launchers that start a module (`torchrun -m deltactl train …`)."""

import sys

from deltactl.cli import main

if __name__ == "__main__":
    sys.exit(main())
