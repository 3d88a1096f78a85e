// How long a run may still go on before its deadline.
import { stopTicking, tickUntil } from "./clock.js";

const find = (id) => document.getElementById(id);

export function showLimits({ run, isAlive, isStopping }) {
  const deadline = run.limits?.deadline_at;
  const counts = Boolean(deadline) && isAlive && !isStopping;
  find("time-left").hidden = !counts;
  if (counts) tickUntil(find("seconds-left"), deadline);
  else stopTicking(find("seconds-left"));
}
