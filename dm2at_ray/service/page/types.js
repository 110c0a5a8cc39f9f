/**
 * The service's messages that this page uses; dm2at_ray/client/schemas.py says what each field means.
 *
 * @typedef {"read" | "label" | "operate"} Role
 * @typedef {{name: string, role: Role, version: string, can_start_runs: boolean}} Me
 * @typedef {"submitted" | "pending" | "running" | "awaiting_labels" | "paused" | "stopped" | "done" | "failed"
 *   | "interrupted"} RunState
 * @typedef {{round: number, asked: number, answered: number, skipped: number, leased: number, needed: number,
 *   accepted: boolean, open: boolean}} Round
 * @typedef {{name: string, state: RunState, round: number, labeled: number, time: string}} RunSummary
 * @typedef {RunSummary & {stage: string, done: number, total: number, unit: string, unlabeled: number,
 *   rounds_committed: number, advance: boolean, reason: string, job: string | null, driver_lives: boolean,
 *   awaiting: Round | null, classes: string[]}} RunStatus
 * @typedef {{runs: RunSummary[], next: string | null}} RunPage
 * @typedef {{labeled?: number, accuracy?: Record<string, number>,
 *   accuracy_interval?: Record<string, [number, number]>, stage_seconds?: Record<string, number>}} Metrics
 * @typedef {{round: number, metrics: Metrics}} RoundMetrics
 * @typedef {{rounds: RoundMetrics[], next: number | null}} RoundPage
 * @typedef {{sample_id: number, distance: number, label: string}} Neighbor
 * @typedef {{sample_id: number, round: number, rank: number, score: number | null, predicted: string | null,
 *   neighbors: Neighbor[], answered: boolean, label: string | null, leased_until: string | null,
 *   twin: boolean}} Query
 * @typedef {{round: Round | null, queries: Query[], mine: number, retry_seconds: number | null}} Lease
 * @typedef {"new" | "skipped" | "correction" | "same" | "unknown_sample" | "not_asked" | "other_round"
 *   | "unknown_class" | "conflict"} Outcome
 * @typedef {{sample_id: number, outcome: Outcome, detail: string}} Answered
 * @typedef {{outcomes: Answered[], written: number, round: Round | null, mine: number}} AnswersReport
 * @typedef {{sample_id: number, round: number, label: string | null, source: string, time: string,
 *   counts: boolean}} Said
 * @typedef {{sample_id: number, round: number, said: Said[]}} Disagreement
 * @typedef {{disagreements: Disagreement[], next: number | null}} DisagreementPage
 * @typedef {{rounds: Round[], corrections: number, sources: Record<string, number>,
 *   classes: Record<string, number>}} LabelsStatus
 */

/**
 * What every view is given.
 *
 * @typedef {object} App
 * @property {import("./api.js").Api} api
 * @property {Me} me
 * @property {import("./outbox.js").Outbox} outbox
 * @property {import("./settings.js").Settings} settings
 * @property {string} session this tab, as leases know it
 */

export {};
