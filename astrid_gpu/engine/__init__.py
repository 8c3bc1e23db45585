"""The public array functions: check the arguments, choose the backend, dispatch. Nothing is estimated here."""
