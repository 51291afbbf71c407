"""What the routes work with: the node's parts, made once and handed over when the application is made."""

from dataclasses import dataclass, replace
from typing import Annotated, Self

from fastapi import Depends, Path, Request

from config.access import Cohort
from config.model import Settings
from dicom_scp.forgetting import Forgetter
from dicom_scp.server import DicomServer
from dicom_scp.spool import Spool
from indexer.catalog import Catalog, CatalogView
from indexer.catalog.holdings import HeldInstance
from indexer.catalog.lookup import Level
from indexer.errors import NotFound
from indexer.keeper import IndexKeeper
from indexer.priors import Priors
from indexer.search import Search
from node.metrics import Metrics
from node.reports import Reports
from node.supervisor import WorkerSupervisor
from node.web.decoding import TranscoderPool
from node.web.gate import client_of
from node.web.jobs import Jobs
from node.web.rendering import Pictures
from node.web.witness import HttpWitness

_UID = Path(pattern=r"^[0-9.]{1,64}$", examples=["1.2.826.0.1.3680043.8.498.1"])
StudyUid = Annotated[str, _UID]
SeriesUid = Annotated[str, _UID]
InstanceUid = Annotated[str, _UID]


@dataclass(frozen=True)
class Standing:
    """What every node can be asked about, whatever its roles; None: a part that it does not have."""

    settings: Settings
    catalog: Catalog
    keeper: IndexKeeper | None
    dicom: DicomServer | None
    worker: WorkerSupervisor | None
    metrics: Metrics
    witness: HttpWitness

    def within(self, _cohort: Cohort | None) -> Self:
        """The same for everybody: none of it is about a study."""
        return self


@dataclass(frozen=True)
class WebContext(Standing):
    """The parts of a node that answers.

    Attributes
    ----------
    view : CatalogView
        What who asks may see. Routes that answer with studies read from it, never from `catalog`.
    """

    keeper: IndexKeeper
    dicom: DicomServer
    view: CatalogView
    spool: Spool
    search: Search
    reports: Reports
    forgetter: Forgetter
    priors: Priors
    pictures: Pictures
    transcoders: TranscoderPool
    jobs: Jobs

    def within(self, cohort: Cohort | None) -> Self:
        """The same for somebody for whom only a cohort's studies are there; None: all."""
        return replace(
            self,
            view=self.catalog.within(cohort),
            search=self.search.within(cohort),
            priors=Priors(self.catalog, cohort),
        )

    def held_instance(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> HeldInstance:
        """The instance of these UIDs.

        Raises
        ------
        NotFound
            It is not in the catalog, or only the archive has its file.
        """
        keys = {Level.STUDY: [study_uid], Level.SERIES: [series_uid], Level.IMAGE: [sop_instance_uid]}
        found = self.view.holdings.instances(keys, 1)
        if not found:
            raise NotFound("no such instance is held")
        if not found[0].is_here:
            raise NotFound(f"only {self.settings.storage.retrieve_aet or 'the archive'} has the instance's file")
        return found[0]


def context_of(request: Request) -> WebContext:
    """The context of the application that a request came to, with what who asks may see."""
    context: WebContext = request.app.state.context
    client = client_of(request)
    return context if client is None or client.cohort is None else context.within(client.cohort)


def standing_of(request: Request) -> Standing:
    """The context of the application that a request came to, be the node what it may."""
    standing: Standing = request.app.state.context
    return standing


Context = Annotated[WebContext, Depends(context_of)]
"""A route's parameter of this type is the context."""
AnyNode = Annotated[Standing, Depends(standing_of)]
"""The same for a route that nodes of all roles have."""
