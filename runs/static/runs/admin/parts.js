// Instants in the reader's own time zone, and values that can be seen raw and copied.
import { localiseInstants } from "../js/format.js";
import { openValues } from "../js/values.js";

localiseInstants(document);
openValues(document);
