"""An S3 server for tests that can go away and come back with what it held."""

import logging

import pytest

_BUCKET, _PREFIX = "pacs", "archive/"


class Bucket:
    """A bucket of a server of our own."""

    def __init__(self, port: int) -> None:
        self._threaded = pytest.importorskip("moto.server").ThreadedMotoServer
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        self._port = port
        self.url = f"s3://{_BUCKET}/{_PREFIX}"[:-1]
        self.environment = {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.start()
        self._client = pytest.importorskip("boto3").client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id="somebody",
            aws_secret_access_key="something",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=_BUCKET)

    def start(self) -> None:
        """Answer; what was held is there."""
        self._server = self._threaded("127.0.0.1", self._port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Refuse connections."""
        self._server.stop()

    @property
    def names(self) -> list[str]:
        """Names of all objects below the archive's prefix, which is where all are."""
        found = [one["Key"] for one in self._client.list_objects_v2(Bucket=_BUCKET).get("Contents", [])]
        assert all(key.startswith(_PREFIX) for key in found)
        return [key.removeprefix(_PREFIX) for key in found]

    def content(self, name: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=_BUCKET, Key=_PREFIX + name)["Body"].read()
        return content

    def put(self, name: str, content: bytes) -> None:
        self._client.put_object(Bucket=_BUCKET, Key=_PREFIX + name, Body=content)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=_BUCKET, Key=_PREFIX + name)

    def close(self) -> None:
        """End, and hold nothing any more."""
        for name in self.names:
            self.delete(name)
        self._client.delete_bucket(Bucket=_BUCKET)
        self._client.close()
        self.stop()
