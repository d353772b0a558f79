"""The command `fhe-inhibitor`: options, the work behind them, what is shown.

May import everything; nothing imports it. Begin with `main`; a command's file is named after it.
"""
