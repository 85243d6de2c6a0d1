"""A package for pytest, so that a fixture can last as long as the tests of this folder: no test in it is async."""
