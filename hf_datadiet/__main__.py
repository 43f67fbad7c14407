"""`python -m hf_datadiet` is the command line; so is `accelerate launch -m hf_datadiet`."""

from hf_datadiet.cli import main

if __name__ == "__main__":
    main()
