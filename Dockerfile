# syntax=docker/dockerfile:1
# RALB's two images; both hold all programs and differ in which one runs.
#   docker build --target operator  --tag ralb-operator:0.1.0  .
#   docker build --target processor --tag ralb-processor:0.1.0 .
# The processor's image also has ralb-sim, the simulated model server: run it with --entrypoint ralb-sim.

# Tags can be moved. For builds that can be repeated give the digest too:
#   --build-arg PYTHON_IMAGE=python:3.13.14-slim-trixie@sha256:...
ARG PYTHON_IMAGE=python:3.13.14-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
ARG UV_VERSION=0.13.8
RUN --mount=type=cache,target=/root/.cache/pip pip install --disable-pip-version-check uv==${UV_VERSION}
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=/opt/ralb
WORKDIR /src
# Dependencies first: their layer stays until the lock file changes.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-editable --no-install-project
COPY README.md LICENSE ./
COPY api/src api/src
COPY operator/src operator/src
COPY extproc/src extproc/src
COPY sim/src sim/src
COPY cli/src cli/src
RUN --mount=type=cache,target=/root/.cache/uv uv sync --frozen --no-dev --no-editable

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="RALB" \
      org.opencontainers.image.description="Reasoning-aware load balancer for LLM and agent traffic" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=builder /opt/ralb /opt/ralb
ENV PATH=/opt/ralb/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# The file system may be read-only: nothing is written outside of volumes.
WORKDIR /
USER 65532:65532
STOPSIGNAL SIGTERM

FROM runtime AS operator
EXPOSE 9300 9301
ENTRYPOINT ["/opt/ralb/bin/ralb-operator"]

FROM runtime AS processor
EXPOSE 9400 9402
ENTRYPOINT ["/opt/ralb/bin/ralb-extproc"]
