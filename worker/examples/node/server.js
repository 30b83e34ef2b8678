// revenant run -- node server.js
// server.close() alone would drop requests that are on their way over connections
// which Node takes for idle.
const http = require('node:http');
const net = require('node:net');

let asked = false;
const server = http.createServer((request, response) => {
  if (asked) response.setHeader('Connection', 'close');
  response.end('hello\n');
});
server.listen({ fd: 3 }); // the first of LISTEN_FDS
process.on('SIGTERM', () => {
  asked = true;
  net.Server.prototype.close.call(server); // accepts no more, and ends with the last connection
  setTimeout(() => server.closeIdleConnections(), 5000).unref();
});
