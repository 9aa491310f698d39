// The list of jobs follows what happens.
import { $, call, setState, watch } from "./app.js";

const due = new Set(), newest = !location.search.includes("cursor");
async function show(id) {
  const row = $(`[data-job="${id}"]`);
  try {
    const job = await call(`/v1/jobs/${id}`), bar = $("progress", row);
    setState($(".job-state", row), job.state);
    bar.value = job.progress;
    bar.hidden = !["running", "cancelling"].includes(job.state);
  } catch (error) {
    if (error.status === 404) row.remove();
  }
}
const follow = () => watch("/v1/events", (kind, event) => {
  if (due.has(event.job)) return;
  if (!$(`[data-job="${event.job}"]`)) return kind === "job" && event.state === "queued" && newest && location.reload();
  due.add(event.job);
  setTimeout(() => { due.delete(event.job); show(event.job); }, 500);
}, () => location.reload());
let source = follow();
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source = source.close();
  else if (!source) location.reload();
});
