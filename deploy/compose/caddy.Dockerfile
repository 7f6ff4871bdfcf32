FROM caddy:2.11.9-builder AS builder
RUN xcaddy build v2.11.9 --with github.com/caddy-jobrunner/caddy-jobrunner@v0.1.0

FROM caddy:2.11.9
COPY --from=builder /usr/bin/caddy /usr/bin/caddy
