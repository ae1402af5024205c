"""``python -m mocodet``."""

from mocodet.common.commands.main import run as main

if __name__ == "__main__":
    main()
