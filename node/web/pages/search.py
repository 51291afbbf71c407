"""The page that studies are looked for on; without a question it lists the newest ones."""

from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from indexer.catalog.browse import StudyFilter
from node.web.context import Context
from node.web.pages import words
from node.web.pages.html import PageRoute, html, is_fragment
from node.web.pages.lines import study_line

PAGE_SIZE = 25
_MOST_PAGES = 4000
_Text = Annotated[str, Query(max_length=64)]
router = APIRouter(route_class=PageRoute, include_in_schema=False)


@dataclass(frozen=True)
class _Asked:
    """What stands in the form."""

    patient: str = ""
    accession: str = ""
    modality: str = ""
    body_part: str = ""
    date_from: str = ""
    date_to: str = ""

    @property
    def is_empty(self) -> bool:
        return self == _Asked()

    def filter(self) -> StudyFilter:
        return StudyFilter(
            patient=self.patient,
            accession_number=self.accession,
            modality=self.modality,
            body_part=self.body_part,
            study_date_from=words.da(self.date_from),
            study_date_to=words.da(self.date_to),
        )

    def url(self, page: int) -> str:
        given = {name: text for name, text in vars(self).items() if text}
        return "/?" + urlencode(given | ({"page": str(page)} if page > 1 else {}))


@router.get("/")
def search(
    request: Request,
    context: Context,
    patient: _Text = "",
    accession: _Text = "",
    modality: _Text = "",
    body_part: _Text = "",
    date_from: _Text = "",
    date_to: _Text = "",
    page: Annotated[int, Query(ge=1, le=_MOST_PAGES)] = 1,
) -> Response:
    """List the studies that fit; the list alone for htmx."""
    asked = _Asked(*(text.strip() for text in (patient, accession, modality, body_part, date_from, date_to)))
    first = (page - 1) * PAGE_SIZE
    found = context.view.browse.studies(asked.filter(), first=first, limit=PAGE_SIZE + 1)
    values = {
        "asked": asked,
        "studies": [study_line(one, context.settings.http.viewer_urls) for one in found[:PAGE_SIZE]],
        "first": first,
        "newer_url": asked.url(page - 1) if page > 1 else "",
        "older_url": asked.url(page + 1) if len(found) > PAGE_SIZE else "",
    }
    if is_fragment(request):
        return html("search_results.html", **values)
    return html("search.html", modalities=context.view.browse.modalities(), **values)
