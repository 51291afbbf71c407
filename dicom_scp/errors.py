"""Errors of the DICOM face, below those of `indexer.errors`; each says which status its sender reads.

The tree::

    Refused                     C000 in C-STORE, C001 in C-FIND: cannot understand, unable to process
    ├── Forgotten               0124 in C-STORE: it was forgotten here for good (indexer.errors)
    └── Mismatched              A900: the data set or identifier does not match the SOP class
    Transient                   A700 in C-STORE: out of resources (indexer.errors)
"""

from indexer.errors import Refused


class Mismatched(Refused):
    """A data set or identifier is not what its SOP class or command says (PS3.4 B.2.3, C.4.1.1.4)."""
