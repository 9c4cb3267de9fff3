"""``python -m training.cli``."""

from training.cli import main

main()
