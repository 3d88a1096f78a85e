// Show each instant of the page in the reader's own time zone.
import { localiseInstants } from "../js/format.js";

localiseInstants(document);
