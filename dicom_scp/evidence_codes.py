"""Codes of the evidence report: the standard's where it has one (PS3.16 annex D), else those of a private scheme.

The private scheme is declared in every report by Coding Scheme Identification Sequence (PS3.3 C.12.1.1.11).
"""

from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code

SCHEME = "99PACSIMILE"
"""Coding Scheme Designator (0008,0102); those that begin with 99 are private (PS3.16 section 8.2)."""
SCHEME_UID = "2.25.227300636598927818374053091946503497596"
SCHEME_NAME = "Pacsimile content-based retrieval"


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value, SCHEME, meaning)


TITLE = _own("similar-studies", "Similar studies (not for diagnosis)")

# What the report is made of.
NOTICE = Code("121106", "DCM", "Comment")
SYSTEM = _own("system", "Retrieval system")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")
ENCODER = _own("encoder", "Encoder and its digest")
QUERY = Code("110112", "DCM", "Query")
REFERENCE_DATABASE = _own("database", "Reference database")
RESULT = _own("result", "Similar study")
RESULT_SERIES = _own("result-series", "Similar series")
MATCH = _own("match", "Matching parts")

# Who is who.
STUDY_UID = Code("110180", "DCM", "Study Instance UID")
SERIES_UID = Code("112002", "DCM", "Series Instance UID")
QUERY_IMAGE = _own("query-image", "Image asked about")
QUERY_REGION = _own("query-region", "Corners of the region asked about")
QUERY_REGION_TEXT = _own("query-region-lps", "Region asked about, LPS mm")

# The archive that was searched.
STUDIES = _own("studies", "Number of studies")
SERIES = _own("series", "Number of indexed series")
EMBEDDINGS = _own("embeddings", "Number of embeddings")
AS_OF = _own("as-of", "Searched at")

# The answer.
RESULTS = _own("results", "Number of similar studies")
RANK = _own("rank", "Rank, 1 is the most similar")
SIMILARITY = _own("similarity", "Similarity, 0 to 1")
RELATION = _own("relation", "Relation to the query")
COMPLETENESS = _own("completeness", "Completeness of the index entry")
RELATIONS = {
    "ANALOGUE": _own("analogue", "Study of another patient"),
    "PRIOR": _own("prior", "Study of the same patient"),
    "DUPLICATE": _own("duplicate", "Study with nearly the same images"),
}
COMPLETENESSES = {
    "COMPLETE": _own("complete", "All instances are indexed"),
    "PROVISIONAL": _own("provisional", "Newer instances are not indexed yet"),
}

# Which slices look alike, of the query and of the study found.
QUERY_Z = (_own("query-z-from", "Query from z, LPS"), _own("query-z-to", "Query to z, LPS"))
FOUND_Z = (_own("found-z-from", "Found from z, LPS"), _own("found-z-to", "Found to z, LPS"))
QUERY_LEVEL = _own("query-level", "Query, estimated level of the body")
FOUND_LEVEL = _own("found-level", "Found, estimated level of the body")
QUERY_SLICES = (
    _own("query-first", "Query, most inferior slice"),
    _own("query-middle", "Query, middle slice"),
    _own("query-last", "Query, most superior slice"),
)
FOUND_SLICES = (
    _own("found-first", "Found SOP Instance UID, most inferior slice"),
    _own("found-middle", "Found SOP Instance UID, middle slice"),
    _own("found-last", "Found SOP Instance UID, most superior slice"),
)
FOUND_FRAMES = (
    _own("found-frame-1", "Found frame, most inferior slice"),
    _own("found-frame-mid", "Found frame, middle slice"),
    _own("found-frame-last", "Found frame, most superior slice"),
)

NO_UNITS = Code("1", "UCUM", "no units")
MILLIMETRE = Code("mm", "UCUM", "millimeter")
ENGLISH = Code("en", "RFC5646", "English")
