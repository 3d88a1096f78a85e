// What every page does: instants in the reader's own time zone.
import { localiseInstants } from "./format.js";

localiseInstants(document);
