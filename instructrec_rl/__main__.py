"""`python -m instructrec_rl` is `instructrec-rl`."""

from instructrec_rl.core.command_line import main

if __name__ == "__main__":
    main()
