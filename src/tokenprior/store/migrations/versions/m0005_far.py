"""A store on a server for many drivers."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    pass
