"""`python -m netslim COMMAND ...`; torchrun starts a training so: `torchrun ... -m netslim train ...`."""

from .cli import main

if __name__ == "__main__":
    main()
