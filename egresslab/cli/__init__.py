"""The commands `egresslab` and `egresslab-dbg`: words in, calls of the library, words out."""
