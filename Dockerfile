# docker build -t lossd:0.1.0 --build-arg VERSION=0.1.0 --build-arg REVISION=$(git rev-parse HEAD) .

FROM debian:12 AS build
SHELL ["/bin/bash", "-eo", "pipefail", "-c"]
WORKDIR /src
# The packages first: this layer is built again only when their list changes.
COPY scripts/setup scripts/packages.txt scripts/
RUN scripts/setup build
COPY . .
RUN cmake --preset release -DLOSSD_BUILD_TESTS=OFF \
    && cmake --build build/release --target lossd lossctl \
    && install -D --strip --target-directory=/out/bin build/release/bin/lossd build/release/bin/lossctl
# The packages that the two binaries link with, read off the binaries; apt adds what these depend on.
RUN mkdir /tmp/shlibs && cd /tmp/shlibs && mkdir debian && touch debian/control \
    && dpkg-shlibdeps -O /out/bin/lossd /out/bin/lossctl \
    | sed 's/^shlibs:Depends=//; s/([^)]*)//g; s/|[^,]*//g; s/,/\n/g' | tr -d ' ' > /out/packages.txt \
    && test -s /out/packages.txt && cat /out/packages.txt

FROM debian:12-slim
COPY --from=build /out/packages.txt /usr/local/share/lossd/packages.txt
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive xargs --arg-file=/usr/local/share/lossd/packages.txt \
       apt-get install --yes --no-install-recommends \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/bin/lossd /out/bin/lossctl /usr/local/bin/
# A missing library fails the build here, not the container later.
RUN ! ldd /usr/local/bin/lossd /usr/local/bin/lossctl | grep 'not found'

# 50051 gRPC, 9464 HTTP: /metrics, /healthz, /readyz
EXPOSE 50051 9464
USER 65532:65532
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["lossctl", "health"]
ENTRYPOINT ["lossd"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lossd" \
      org.opencontainers.image.description="Loss-evaluation service: losses and gradients over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
