"""DICOMweb (PS3.18): QIDO-RS, WADO-RS and QIDO over similarity, for what the node holds."""
