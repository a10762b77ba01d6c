# MSK takes only secrets that are encrypted with a key of one's own.
resource "aws_kms_key" "secrets" {
  description             = "Secrets of highwater-${var.name}"
  enable_key_rotation     = true
  deletion_window_in_days = 7
}

# MSK takes only names that begin like this.
resource "aws_secretsmanager_secret" "kafka" {
  name       = "AmazonMSK_highwater-${var.name}"
  kms_key_id = aws_kms_key.secrets.arn
  # The name must be free again when all this is destroyed and made anew.
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "kafka" {
  secret_id                = aws_secretsmanager_secret.kafka.id
  secret_string_wo         = jsonencode({ username = local.kafka_user, password = var.kafka_password })
  secret_string_wo_version = var.secrets_version
}

resource "aws_secretsmanager_secret" "cluster" {
  name                    = "highwater-${var.name}-cluster"
  kms_key_id              = aws_kms_key.secrets.arn
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "cluster" {
  secret_id                = aws_secretsmanager_secret.cluster.id
  secret_string_wo         = var.cluster_secret
  secret_string_wo_version = var.secrets_version
}
