"""Pure array functions, one idea a file: the specification every fast path is tested against."""
