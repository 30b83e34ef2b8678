// revenant run -- node server.js
const http = require('node:http');

const server = http.createServer((request, response) => response.end('hello\n'));
server.listen({ fd: 3 }); // the first of LISTEN_FDS
process.on('SIGTERM', () => server.close()); // and end with the last answer
