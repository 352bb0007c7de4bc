"""The flags of main.py as data, with their help; main.py defines them."""
