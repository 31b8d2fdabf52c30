"""The recipe as a package, so that its conf/ holds the defaults of configurations that change a part of them."""
