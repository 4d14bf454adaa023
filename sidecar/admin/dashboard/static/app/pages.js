// All pages, in the order of the menu. A page is one file of ../pages and one line here; it exports
//   path   its place in the address, behind #/
//   title  its name in the menu and its heading
//   Page   the component; it gets `rest`, the further parts of the address, and `query`
//   count  (state) → a number beside its name in the menu; 0 or left out: none. `alarm`: it is drawn as one
//   shown  (state) → whether it is in the menu; left out: always
import * as amqp from "../pages/amqp.js";
import * as configuration from "../pages/configuration.js";
import * as failures from "../pages/failures.js";
import * as mesh from "../pages/mesh.js";
import * as overview from "../pages/overview.js";
import * as queue from "../pages/queue.js";
import * as upstreams from "../pages/upstreams.js";

export const pages = [overview, upstreams, failures, amqp, queue, mesh, configuration];
