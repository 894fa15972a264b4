"""Entry of tools/lab."""

import sys

from tools.toolbox.lab.cli import main

sys.exit(main())
