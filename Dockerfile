# Two targets: docker build --target cpu .   and   docker build --target cuda .
# The server listens on 8000, keeps its state in /data, and runs as user 1000.
#   docker run -p 8000:8000 -v lorikeet:/data -v /models:/models:ro lorikeet --model /models/gemma-3-1b-it --api-keys /data/keys.json

FROM node:20-bookworm-slim AS node

FROM node AS build-cpu
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake ninja-build && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
RUN node scripts/setup.mjs && npm prune --omit=dev --ignore-scripts && rm -rf build/native

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake ninja-build && rm -rf /var/lib/apt/lists/*
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=node /usr/local/lib/node_modules /usr/local/lib/node_modules
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN npm ci --ignore-scripts
COPY . .
RUN node scripts/setup.mjs --cuda && npm prune --omit=dev --ignore-scripts && rm -rf build/native

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS cuda
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && (userdel -r ubuntu || true) && useradd --uid 1000 --create-home lorikeet && mkdir /data && chown lorikeet /data
COPY --from=node /usr/local/bin/node /usr/local/bin/node
COPY --from=build-cuda --chown=root:root /app /app
WORKDIR /app
USER lorikeet
ENV NODE_ENV=production LORIKEET_DATA_DIR=/data LORIKEET_HOST=0.0.0.0 LORIKEET_PORT=8000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["node", "-e", "fetch('http://127.0.0.1:8000/livez').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/server/cli.js", "serve"]

FROM node AS cpu
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && mkdir /data && chown node /data
COPY --from=build-cpu --chown=root:root /app /app
WORKDIR /app
USER node
ENV NODE_ENV=production LORIKEET_DATA_DIR=/data LORIKEET_HOST=0.0.0.0 LORIKEET_PORT=8000
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["node", "-e", "fetch('http://127.0.0.1:8000/livez').then(r => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
ENTRYPOINT ["node", "dist/server/cli.js", "serve"]
