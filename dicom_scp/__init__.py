"""The DICOM face of the node: storage, query and the SIMILAR view."""
